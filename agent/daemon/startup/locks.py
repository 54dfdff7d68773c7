"""One daemon for each pins directory, whatever its run directory: a second one would replace the first one's
programs, and the first would go on with maps that nothing writes to."""

from __future__ import annotations

import contextlib
import fcntl
import os
from pathlib import Path

from agent.errors import AlreadyRunning, KernelError
from agent.kernel.pins import Pins
from agent.system import bpf_map, libbpf

OBSERVERS = ("track_flows", "observe_connect4", "observe_connect6", "cgroup_mkdir")
"""Links that are there as long as anything is observed."""
SEEN_MAPS = ("ring", "uses", "counts", "flows", "generation")


class PinsLock:
    """A flock(2) on the directory itself, because bpffs has no files. It ends with the process."""

    def __init__(self, pins: Path) -> None:
        """Raises AlreadyRunning where another daemon holds it, KernelError where it can't be made."""
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
        """An unload removes the directory: then the lock is one on nothing."""
        try:
            return os.path.samestat(self._pins.stat(), os.fstat(self._fd))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        with contextlib.suppress(OSError):  # what is pinned stays, and is what keeps the directory
            self._pins.rmdir()
        os.close(self._fd)


def flock_holder(inode: int, proc: Path = Path("/proc")) -> int:
    """The process that has the flock(2) on an inode (proc_locks(5)); 0: not known."""
    with contextlib.suppress(OSError, ValueError):
        for line in (proc / "locks").read_text().splitlines():
            fields = line.split()
            if fields[1] == "FLOCK" and fields[5].rpartition(":")[2] == str(inode):
                return max(0, int(fields[4]))
    return 0


class PinsWatch:
    """Is what is attached still what this daemon has found or attached? A lock holds only between daemons
    that take it: one of version 0.1.0, and whoever removes pins by hand, do not."""

    def __init__(self, pins: Pins) -> None:
        """To be made while the lock is held, once the programs are attached."""
        self._pins = pins
        self._maps = frozenset(self._pinned_maps().values())
        self._own = self._attached()
        self.problem = ""

    def look(self) -> None:
        now = self._attached()
        changed = [name for name, number in self._own.items() if now.get(name) != number]
        gone = [name for name in changed if name not in now]
        if gone:
            self.problem = (
                f"{self._pins.base}: {gone[0]} is not there any more: this daemon sees nothing, and refuses "
                "nothing; restart it"
            )
        elif changed:
            self.problem = (
                f"{self._pins.base}: {changed[0]} is another daemon's: this one sees nothing; give each its "
                "own paths.pins, paths.run and paths.state, and restart this one"
            )
        else:
            self.problem = ""

    def _attached(self) -> dict[str, object]:
        """Which maps are pinned, and whether what the links attach uses those of this daemon: `licet load`
        may have put the same programs there again."""
        found: dict[str, object] = dict(self._pinned_maps())
        for name in OBSERVERS:
            with contextlib.suppress(OSError), libbpf.opened_pin(self._pins.link(name)) as link:
                program = libbpf.open_program(libbpf.link_program(link))
                try:
                    found[name] = bool(libbpf.program_maps(program) & self._maps)
                finally:
                    os.close(program)
        return found

    def _pinned_maps(self) -> dict[str, int]:
        found = {}
        for name in SEEN_MAPS:
            with contextlib.suppress(OSError), libbpf.opened_pin(self._pins.map(name)) as fd:
                found[f"map {name}"] = bpf_map.map_info(fd).id
        return found
