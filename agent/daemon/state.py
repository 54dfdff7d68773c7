"""What outlives the daemon outside the kernel: one lock for each run directory, names of ids, the time."""

from __future__ import annotations

import fcntl
import json
import logging
import os
import time
from pathlib import Path

from agent.errors import AlreadyRunning, KernelError
from agent.policy.ids import Ids

log = logging.getLogger(__name__)


class RunLock:
    """Held while a daemon runs. The kernel lets go of it when the process dies, however it dies."""

    def __init__(self, run: Path) -> None:
        """Raises AlreadyRunning where another daemon holds it, KernelError where there can't be one."""
        try:
            run.mkdir(parents=True, exist_ok=True)
            self._file = (run / "licet.lock").open("a+", encoding="utf-8")
        except OSError as error:
            raise KernelError(f"{run}: cannot make the run directory: {error.strerror}") from error
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self._file.seek(0)
            holder = self._file.read().strip()
            self._file.close()
            raise AlreadyRunning(
                f"{run}: a daemon is running here already (pid {holder or 'unknown'}); stop it, or give this "
                "one its own paths.run, paths.state and paths.pins",
                int(holder) if holder.isdecimal() else 0,
            ) from None
        self._file.truncate(0)
        self._file.write(str(os.getpid()))
        self._file.flush()

    def release(self) -> None:
        # the file stays: were it removed, one who has opened it could lock it beside one who made it anew
        self._file.truncate(0)
        self._file.close()


class State:
    """Files in paths.state. Each is written whole and renamed into place; raises KernelError where it
    can't be."""

    def __init__(self, folder: Path) -> None:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KernelError(f"{folder}: cannot make the state directory: {error.strerror}") from error
        self._folder = folder

    def ids(self) -> Ids:
        """Ids stored before. Raises KernelError where the file is damaged: numbers given out again
        would make old counters speak of other names."""
        path = self._folder / "ids.json"
        try:
            return Ids.from_json(json.loads(path.read_text(encoding="utf-8")))
        except FileNotFoundError:
            return Ids()
        except (ValueError, TypeError, AttributeError) as error:
            raise KernelError(
                f"{path}: damaged ({error}); remove it together with the pins: licet unload && rm {path}"
            ) from error

    def store_ids(self, ids: Ids) -> None:
        self._store("ids.json", ids.to_json())

    def newest_time(self) -> float:
        """The newest wall-clock time an earlier run saw, in seconds since the epoch; 0: none."""
        try:
            return float(json.loads((self._folder / "clock.json").read_text())["seen_unix_s"])
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return 0.0

    def store_time(self) -> None:
        self._store("clock.json", {"seen_unix_s": max(time.time(), self.newest_time())})

    def _store(self, name: str, content: object) -> None:
        path, fresh = self._folder / name, self._folder / f".{name}.new"
        try:
            with fresh.open("w", encoding="utf-8") as file:
                json.dump(content, file)
                file.flush()
                os.fsync(file.fileno())  # before the name: a power loss must not leave an empty file
            os.replace(fresh, path)
        except OSError as error:
            raise KernelError(f"{path}: cannot be written: {error.strerror}") from error
