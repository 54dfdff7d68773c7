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
_MOST_BYTES = 32 << 20


class Records:
    """A record that cannot be written is kept in memory and written later; nothing else depends on it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._unwritten: dict[str, object] = {}
        self._lock = threading.Lock()
        self.problem = ""
        """Why a record cannot be written; "" if all could."""

    def names(self) -> list[str]:
        try:
            return sorted(path.name for path in self._folder.iterdir())
        except OSError:
            return []

    def read(self, name: str) -> Any:
        """None: there is no such record, or it is damaged."""
        path = self._folder / name
        try:
            return files.read_json(path, _MOST_BYTES)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (OSError, ValueError) as error:
            self._damaged(path, error)
            return None

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

    def remove(self, name: str) -> None:
        with self._lock:
            self._unwritten.pop(name, None)
            with contextlib.suppress(OSError):
                (self._folder / name).unlink()

    def retry(self) -> None:
        """Write the records that could not be written before."""
        for name in list(self._unwritten):
            with self._lock:
                if name in self._unwritten:
                    self._try(name)

    def _try(self, name: str) -> None:
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            files.write_text(path, json.dumps(self._unwritten[name]))
        except OSError as error:
            self.problem = f"{path}: cannot be written: {error.strerror}"
            return
        del self._unwritten[name]
        if not self._unwritten:
            self.problem = ""

    def _damaged(self, path: Path, error: Exception) -> None:
        """Move a damaged record away, so that it is not lost and not read again."""
        aside = path.with_name(f"{path.name}.bad")
        log.error("%s: damaged (%s); it is moved to %s, and the agent goes on without it", path, error, aside)
        with contextlib.suppress(OSError):
            path.replace(aside)
