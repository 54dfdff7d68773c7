"""What the kernel saw of a process, completed from /proc and the cgroup tree, while it is there."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from agent.abi import COMPONENT_BYTES
from agent.daemon.tracking.tally import keep_newest
from agent.model import Process
from agent.observe.cgroup import list_cgroups
from agent.observe.proc import ProcReader

MOST_ARGS = 1024
RECENT_S = 1.0
RECENT = 64
REMEMBERED = 2048
"""Processes whose arguments are known though they may be gone: a flow closes after its program has ended."""


class Attributor:
    """Completes processes from /proc, and remembers what it found by process and cgroup."""

    def __init__(self, reader: ProcReader, cgroup_mount: Path, user_name: Callable[[int], str]) -> None:
        self._reader = reader
        self._mount = cgroup_mount
        self._user_name = user_name
        self._cgroups: dict[int, str] = {}
        self._before: frozenset[int] = frozenset()
        """Known when the cgroups were last read: what came after is not gone because it was not listed."""
        self._gone: frozenset[int] = frozenset()
        self._met: dict[tuple[int, int, str], Process] = {}
        """Names, executables and arguments by pid, start and executable; the newest last."""
        self._recent: dict[tuple[Process, str], Process] = {}
        self._recent_until_s = 0.0

    def read_cgroups(self) -> dict[str, int]:
        """cgroup2 id by path, of all that exist now."""
        self._before = frozenset(self._cgroups)
        found = dict(list_cgroups(self._mount))
        self._cgroups.update((number, path) for path, number in found.items())
        return found

    def learn_cgroup(self, number: int, path: str) -> None:
        """From the kernel, when a cgroup is made: it may be gone before anybody looks."""
        self._cgroups[number] = path

    def forget_cgroups(self, there: Iterable[int]) -> frozenset[int]:
        """Let go of those that were gone at the last look already; says which are gone now. Those between
        are kept: what happened in them may still be on its way here."""
        gone = self._before - frozenset(there)
        for number in gone & self._gone:
            self._cgroups.pop(number, None)
        self._gone = gone - self._gone
        return self._gone

    def cgroup_path(self, number: int) -> str:
        if number and number not in self._cgroups:
            self.read_cgroups()
        return self._cgroups.get(number, "")

    def recent(self, seen: Process, comm: str) -> Process:
        """As `complete`, or as it was a moment ago: one process may call listen() 20,000 times."""
        if time.monotonic() >= self._recent_until_s or len(self._recent) >= RECENT:
            self._recent.clear()
            self._recent_until_s = time.monotonic() + RECENT_S
        key = seen, comm
        if key not in self._recent:
            self._recent[key] = self.complete(seen, comm=comm)
        return self._recent[key]

    def complete(
        self, seen: Process, *, comm: str = "", args: tuple[str, ...] = (), gids: Iterable[int] = ()
    ) -> Process:
        """`seen` is the kernel's word and wins; what was learned of the process before comes next. /proc adds
        what the kernel did not copy, if the process there is still the same one; of what goes with a program,
        only while it still runs that."""
        cgroup = self.cgroup_path(seen.cgroup_id)
        live = self._reader.process(seen.pid)
        if live is None or not self._reader.same_process(live.start_boot_ns, seen.start_boot_ns):
            live = Process()
        now, key = live, (seen.pid, seen.start_boot_ns, seen.exe)
        if not is_same_program(seen.exe, live.exe):
            now = Process()  # what it has become says nothing of what it was
        before = self._met.get(key, Process())
        comm, args = comm or seen.comm or before.comm or now.comm, args or before.args or now.args
        exe = now.exe or before.exe or seen.exe
        if (comm or args) and sum(map(len, args)) <= MOST_ARGS:
            keep_newest(self._met, key, Process(comm=comm, exe=exe, args=args), REMEMBERED)
        uid = seen.uid if seen.uid is not None else live.uid
        gid = seen.gid if seen.gid is not None else live.gid
        return replace(
            seen,
            comm=comm,
            exe=exe,
            args=args,
            uid=uid,
            user=self._user_name(uid) if uid is not None else "",
            gid=gid,
            gids=tuple(sorted({*gids, *live.gids, *seen.gids})),
            cgroup=cgroup or live.cgroup,
            unit=self._reader.unit_of(cgroup or live.cgroup),
            container=self._reader.container_of(cgroup or live.cgroup),
            in_pid_namespace=live.in_pid_namespace,
            exe_elsewhere=now.exe_elsewhere,
            user_owners=live.user_owners,
            is_whole=now.pid != 0,
        )


def is_same_program(seen: str, live: str) -> bool:
    """Is a path that the kernel told, perhaps not as a whole, that of the executable in /proc? Of one that it
    has not told, nobody can say."""
    if not seen or seen == live:
        return seen == live
    deep, parts, found = seen.startswith("…"), seen.strip("…").split("/"), live.split("/")
    if deep:
        found = found[-len(parts) + 1 :]
        parts = parts[1:]
    cut = COMPONENT_BYTES - 1
    return len(parts) == len(found) and all(
        one == other or (len(os.fsencode(one)) == cut and os.fsencode(other).startswith(os.fsencode(one)))
        for one, other in zip(parts, found, strict=True)
    )
