"""Records that outlive the daemon: JSON files in one folder, each written whole."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.system import files

log = logging.getLogger(__name__)
FOLDER = "."
"""Stands for the names of all records."""
_MOST_BYTES = 32 << 20


class Records:
    """A record that cannot be written is kept in memory and written later; nothing else depends on it.

    One that is there and cannot be read now may be read later: until then nothing is written over it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unwritten: dict[str, object] = {}
        self._unread: dict[str, str] = {}
        """Why a record cannot be read, by name."""
        self._lock = threading.Lock()
        self._unwritable = ""

    @property
    def unread(self) -> str:
        """Why a record that is there cannot be read; "" if all were."""
        return next(iter(self._unread.values()), "")

    @property
    def problem(self) -> str:
        """Why a record cannot be read or written; "" if all can."""
        return self.unread or self._unwritable

    def names(self) -> list[str]:
        """Names of all records. Raises OSError; nothing is then written until `release(FOLDER)`."""
        with self._held_on_error(FOLDER):
            try:
                return sorted(path.name for path in self._folder.iterdir())
            except (FileNotFoundError, NotADirectoryError):
                return []

    def read(self, name: str) -> Any:
        """None: there is no such record, or it is damaged.

        Raises OSError if it cannot be read now; nothing is then written over it until `release`."""
        path = self._folder / name
        with self._held_on_error(name):
            try:
                return files.read_json(path, _MOST_BYTES)
            except (FileNotFoundError, NotADirectoryError):
                return None
            except (files.NotAFile, ValueError) as error:
                self._damaged(path, error)
                return None

    def release(self, name: str) -> None:
        """Write over this record from now on: it was read, or does not matter."""
        with self._lock:
            if self._unread.pop(name, None):
                for one in list(self._unwritten):
                    self._try(one)

    def is_unread(self, name: str) -> bool:
        """True if the record may be there and could not be read."""
        return name in self._unread or FOLDER in self._unread

    @contextlib.contextmanager
    def _held_on_error(self, name: str) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            path = self._folder / name
            self._unread[name] = f"{path}: cannot be read: {error.strerror}; the agent tries again"
            raise

    @contextlib.contextmanager
    def understanding(self, name: str) -> Iterator[None]:
        """While the block makes values of the record. One that has no such values is damaged."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError, ArithmeticError) as error:
            self._damaged(self._folder / name, error)

    def write(self, name: str, record: object) -> None:
        """Write a record now, or with a later `retry`."""
        with self._lock:
            self._unwritten[name] = record
            self._try(name)

    def forget(self, name: str) -> None:
        """Leave the record as it is stored, whatever was to be written."""
        with self._lock:
            self._unwritten.pop(name, None)

    def remove(self, name: str) -> None:
        with self._lock:
            self._unwritten.pop(name, None)
            self._unread.pop(name, None)
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def retry(self) -> None:
        """Write the records that could not be written before."""
        for name in list(self._unwritten):
            with self._lock:
                if name in self._unwritten:
                    self._try(name)

    def _try(self, name: str) -> None:
        if self.is_unread(name):
            return
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_text(path, json.dumps(self._unwritten[name]))
        except OSError as error:
            self._unwritable = f"{path}: cannot be written: {error.strerror}"
            return
        del self._unwritten[name]
        if not self._unwritten:
            self._unwritable = ""

    def _damaged(self, path: Path, error: Exception) -> None:
        """Move a damaged record away, so that it is not lost and not read again."""
        aside = path.with_name(f"{path.name}.bad")
        log.error("%s: damaged (%s); it is moved to %s, and the agent goes on without it", path, error, aside)
        with contextlib.suppress(OSError):
            path.replace(aside)
