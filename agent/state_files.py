"""Files in paths.state that outlive the daemon: ids of names, the last good policy, uses, license time."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import KernelError
from agent.policy.document.load import Source
from agent.policy.tables.ids import Ids
from agent.system import files
from agent.system.boottime import boot_id

log = logging.getLogger(__name__)
IDS, CLOCK, POLICY, USES = "ids.json", "clock.json", "policy.json", "uses.json"
MOST_CLOCK_BYTES = 64 << 10
MOST_USES_BYTES = 16 << 20
"""Limit for reading uses.json: several times the size that is ever written."""


def last_good_policy(folder: Path) -> tuple[Source, ...]:
    """Sources of the policy last in force, or () if none is stored. Raises KernelError if the file cannot be
    read."""
    path = folder / POLICY
    try:
        stored = files.read_json(path)
        return tuple(Source(str(one["file"]), str(one["text"]).encode()) for one in stored["files"])
    except FileNotFoundError:
        return ()
    except OSError as error:
        raise KernelError(f"{path}: cannot be read: {error.strerror}; {_move_away(path)}") from error
    except (ValueError, TypeError, KeyError) as error:
        raise KernelError(f"{path}: the last good policy is damaged: {error}; {_move_away(path)}") from error


def kept_time(folder: Path) -> object:
    """License time as an earlier run stored it, in JSON; None if none is stored. Raises OSError and
    ValueError."""
    try:
        stored = files.read_json(folder / CLOCK, MOST_CLOCK_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    if stored is None:
        raise ValueError("keys and values are expected")
    return stored


class State:
    """Files in paths.state. Each file is written whole and renamed into place.

    If a file cannot be written (disk full or read-only), the agent goes on. `problem` has the reason, and
    `retry` writes the file later. Target ids are then stored in `run`, which lives as long as the counters
    that use them."""

    def __init__(self, folder: Path, run: Path | None = None) -> None:
        """Raises KernelError if the directory cannot be made, unless the disk is full, read-only or
        failing."""
        self._folder = folder
        self._run = run
        self._unwritten: dict[str, object] = {}
        self._stored_ids: object = None
        self.problem = ""
        try:
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            self.problem = f"{folder}: cannot make the state directory: {error.strerror}"
            if error.errno not in (errno.EROFS, errno.ENOSPC, errno.EDQUOT, errno.EIO):
                raise KernelError(self.problem) from error

    def ids(self) -> Ids:
        """Ids stored by an earlier run. Raises KernelError if the file is damaged: an id assigned a second
        time would give old counters another name."""
        found = [self._read_ids(folder / IDS) for folder in (self._folder, self._run) if folder]
        ids = max(found, key=lambda each: each.given)
        self._stored_ids = found[0].to_json()
        return ids

    def _read_ids(self, path: Path) -> Ids:
        try:
            return Ids.from_json(files.read_json(path))
        except (FileNotFoundError, NotADirectoryError):
            return Ids()
        except OSError as error:
            raise KernelError(f"{path}: cannot be read: {error.strerror}; {_ids_remedy(path)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise KernelError(f"{path}: damaged ({error}); {_ids_remedy(path)}") from error

    def store_ids(self, ids: Ids) -> None:
        """Store `ids` if they differ from the stored ones."""
        content = ids.to_json()
        if content == self._stored_ids:
            return
        if self._store(IDS, content):
            self._stored_ids = content
            if self._run:
                with contextlib.suppress(OSError):
                    (self._run / IDS).unlink()
        elif self._run:
            with contextlib.suppress(OSError):
                _write(self._run / IDS, content)

    def keep_policy(self, sources: Iterable[Source]) -> None:
        """Store the last good policy. A start at which the files are refused puts it in force."""
        self._store(POLICY, {"files": [{"file": one.file, "text": one.content.decode()} for one in sources]})

    def kept_policy(self) -> tuple[Source, ...]:
        """The last good policy, or () if none is stored or the file cannot be read."""
        try:
            return last_good_policy(self._folder)
        except KernelError as error:
            log.error("%s", error)
            return ()

    def keep_uses(self, uses: Mapping[str, object]) -> None:
        self._store(USES, {"boot": boot_id(), **uses})

    def kept_uses(self) -> Mapping[str, Any]:
        """Uses stored in this boot, or {} if none are stored or the file cannot be read."""
        path = self._folder / USES
        try:
            stored = files.read_json(path, MOST_USES_BYTES)
            return stored if stored["boot"] == boot_id() else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("%s: the uses of the last hour cannot be read: %s", path, error)
            return {}

    def keep_time(self, content: Mapping[str, object]) -> None:
        """Store license time for the next run."""
        self._store(CLOCK, content)

    def retry(self) -> None:
        """Write the files that could not be written before."""
        for name, content in list(self._unwritten.items()):
            if not self._store(name, content):
                return

    def _store(self, name: str, content: object) -> bool:
        path = self._folder / name
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            _write(path, content)
        except OSError as error:
            self._unwritten[name] = content
            lies_there = f"; {_move_away(path)}" if isinstance(error, IsADirectoryError) else ""
            self.problem = f"{path}: cannot be written: {error.strerror}{lies_there}"
            return False
        self._unwritten.pop(name, None)
        if not self._unwritten:
            self.problem = ""
        return True


def _ids_remedy(path: Path) -> str:
    """Remedy for an unreadable file of ids. Counters in the kernel are keyed by these ids, so both are
    removed."""
    aside = f"mv {path} {path}.bad"
    return f"restore the file, or start anew without the counts so far: licet unload && {aside}"


def _move_away(path: Path) -> str:
    return f"move it away (mv {path} {path}.bad); the agent writes a new one"


def _write(path: Path, content: object) -> None:
    files.write_text(path, json.dumps(content))
