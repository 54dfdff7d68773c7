"""What outlives the daemon outside the kernel: names of ids, the last good policy, uses, the time."""

from __future__ import annotations

import contextlib
import errno
import json
import logging
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import KernelError
from agent.policy.document.load import Source
from agent.policy.tables.ids import Ids
from agent.system import files

log = logging.getLogger(__name__)
IDS, CLOCK, POLICY, USES = "ids.json", "clock.json", "policy.json", "uses.json"
MOST_USES_BYTES = 16 << 20
"""Several times what is ever written."""


def last_good_policy(folder: Path) -> tuple[Source, ...]:
    """The sources of the policy last in force; empty: none is kept. Raises KernelError where the file cannot
    be read."""
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


class State:
    """Files in paths.state. Each is written whole and renamed into place.

    A file that cannot be written (a full disk, a read-only one) stops nothing. `problem` says why, and
    `retry` writes it later. Numbers of targets are then kept in `run`, which lives as long as what counts by
    them."""

    def __init__(self, folder: Path, run: Path | None = None) -> None:
        """Raises KernelError where there can never be such a directory."""
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
        """Ids stored before. Raises KernelError where the file is damaged: numbers given out again
        would make old counters speak of other names."""
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
            raise KernelError(f"{path}: cannot be read: {error.strerror}; {_let_go(path)}") from error
        except (ValueError, TypeError, AttributeError) as error:
            raise KernelError(f"{path}: damaged ({error}); {_let_go(path)}") from error

    def store_ids(self, ids: Ids) -> None:
        """Where one is new."""
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
        """The last good policy: what is in force at a start where the files are refused."""
        self._store(POLICY, {"files": [{"file": one.file, "text": one.content.decode()} for one in sources]})

    def kept_policy(self) -> tuple[Source, ...]:
        """As last kept; empty: none, or it cannot be read."""
        try:
            return last_good_policy(self._folder)
        except KernelError as error:
            log.error("%s", error)
            return ()

    def keep_uses(self, uses: Mapping[str, object]) -> None:
        self._store(USES, {"boot": _boot(), **uses})

    def kept_uses(self) -> Mapping[str, Any]:
        """As last kept in this boot; empty: none, or they cannot be read."""
        path = self._folder / USES
        try:
            stored = files.read_json(path, MOST_USES_BYTES)
            return stored if stored["boot"] == _boot() else {}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.error("%s: the uses of the last hour cannot be read: %s", path, error)
            return {}

    def newest_time(self) -> float:
        """The newest wall-clock time an earlier run saw, in seconds since the epoch; 0: none."""
        try:
            return float(files.read_json(self._folder / CLOCK)["seen_unix_s"])
        except (OSError, ValueError, KeyError, TypeError):
            return 0.0

    def newest_offset_ns(self) -> int | None:
        """As stored in this boot (DeadlineClock.newest_ns)."""
        try:
            stored = files.read_json(self._folder / CLOCK)
            return int(stored["offset_ns"]) if stored["boot"] == _boot() else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def store_time(self, offset_ns: int | None = None) -> None:
        """`offset_ns`: of a clock that was synchronised in this boot."""
        seen = {"seen_unix_s": max(time.time(), self.newest_time())}
        self._store(CLOCK, seen if offset_ns is None else {**seen, "boot": _boot(), "offset_ns": offset_ns})

    def retry(self) -> None:
        """Write what could not be written, where it can be now."""
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


def _let_go(path: Path) -> str:
    """What is counted goes by the numbers in it."""
    aside = f"mv {path} {path}.bad"
    return f"put the file back, or begin anew (what was counted is gone): licet unload && {aside}"


def _move_away(path: Path) -> str:
    return f"move it away (mv {path} {path}.bad): it is written anew"


def _boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _write(path: Path, content: object) -> None:
    files.write_text(path, json.dumps(content))
