"""Locks that allow one daemon for each run directory, and one for each pins directory.

A second daemon would replace the first one's programs. The first would go on with maps that no program writes
to."""

from __future__ import annotations

import contextlib
import fcntl
import os
import stat
from io import TextIOWrapper
from pathlib import Path

from agent.errors import AlreadyRunning, KernelError
from agent.system import files


class RunLock:
    """Held while a daemon runs. The kernel releases the lock when the process ends, whatever the cause."""

    def __init__(self, run: Path) -> None:
        """Raises AlreadyRunning if another daemon holds the lock, KernelError if the lock cannot be made."""
        try:
            run.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise KernelError(
                f"{run}: cannot make the run directory: {error.strerror}; see paths.run"
            ) from error
        self._file = _lock_file(run / "licet.lock")
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
        # never delete the file: one process could lock the deleted file and another a new one
        self._file.truncate(0)
        self._file.close()


def _lock_file(path: Path) -> TextIOWrapper:
    # in another user's folder it could be a link to any file, or a FIFO
    flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        if os.path.lexists(path) and not stat.S_ISREG(mode := path.lstat().st_mode):
            raise files.no_file(mode, path)
        return open(os.open(path, flags, 0o644), "a+", encoding="utf-8")
    except OSError as error:
        raise KernelError(f"{path}: cannot be opened: {error.strerror}; remove it") from error


class PinsLock:
    """A flock(2) on the directory itself, because bpffs has no regular files. It ends with the process."""

    def __init__(self, pins: Path) -> None:
        """Raises AlreadyRunning if another daemon holds the lock, KernelError if the directory cannot be
        made."""
        self._pins = pins
        while True:
            try:
                pins.mkdir(parents=True, exist_ok=True)
                self._fd = os.open(pins, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except OSError as error:
                raise KernelError(f"{pins}: cannot make the pins directory: {error.strerror}") from error
            self._lock()
            if self._is_still_there():
                return
            os.close(self._fd)

    def _lock(self) -> None:
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            pid = flock_holder(os.fstat(self._fd).st_ino)
            os.close(self._fd)
            raise AlreadyRunning(
                f"{self._pins}: a daemon with another run directory has its programs here (pid "
                f"{pid or 'unknown'}); stop it, or give each its own paths.run, paths.state and paths.pins",
                0,
            ) from None

    def _is_still_there(self) -> bool:
        """False if an unload removed the directory: the lock then protects nothing."""
        try:
            return os.path.samestat(self._pins.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with contextlib.suppress(OSError):  # the directory stays if it has pins
            self._pins.rmdir()
        os.close(self._fd)


def flock_holder(inode: int, proc: Path = Path("/proc")) -> int:
    """Pid of the process that holds the flock(2) on an inode (proc_locks(5)); 0 if not known."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return max(0, int(fields[4]))
    return 0
