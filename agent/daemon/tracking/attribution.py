"""Completes what the kernel saw of a process from /proc and the cgroup tree, while the process exists."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

from agent.abi import COMPONENT_BYTES
from agent.daemon.tracking.tally import keep_newest
from agent.model import Process
from agent.observe.cgroup import list_cgroups
from agent.observe.proc import ProcReader, UserNames

MOST_ARGS = 1024
RECENT_S = 1.0
RECENT = 64
REMEMBERED = 2048
"""Limit for processes whose arguments are remembered after they end: a flow may close after its program has
ended."""


class Attributor:
    """Completes processes from /proc, and remembers the results by process and cgroup."""

    def __init__(self, reader: ProcReader, cgroup_mount: Path, users: UserNames) -> None:
        self._reader = reader
        self._mount = cgroup_mount
        self._users = users
        self._cgroups: dict[int, str] = {}
        self._before: frozenset[int] = frozenset()
        """Cgroups known when all were last read. A cgroup that came later is missing from that list without
        being gone."""
        self._gone: frozenset[int] = frozenset()
        self._met: dict[tuple[int, int, str], Process] = {}
        """Names, executables and arguments by pid, start and executable; the newest last."""
        self._recent: dict[tuple[Process, str], Process] = {}
        self._recent_until_s = 0.0

    def read_cgroups(self) -> dict[str, int]:
        """cgroup2 id by path, for all cgroups that exist now."""
        self._before = frozenset(self._cgroups)
        found = dict(list_cgroups(self._mount))
        self._cgroups.update((number, path) for path, number in found.items())
        return found

    def learn_cgroup(self, number: int, path: str) -> None:
        """Store a cgroup that the kernel reported when it was made. It may be gone before the next read."""
        self._cgroups[number] = path

    def forget_cgroups(self, there: Iterable[int]) -> frozenset[int]:
        """Forget cgroups missing in two scans in a row, and return those missing now. One scan of grace lets
        queued events still be attributed."""
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
        """Like `complete`, but may return the result of a moment ago: one process may call listen() 20,000
        times."""
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
        """Complete `seen`, whose fields from the kernel take precedence.

        Facts learned of the process before come next. /proc adds what the kernel did not copy, if the pid
        still is the same process. Facts that belong to a program are added only while the process still runs
        that program."""
        cgroup = self.cgroup_path(seen.cgroup_id)
        live = self._reader.process(seen.pid)
        if live is None or not self._reader.same_process(live.start_boot_ns, seen.start_boot_ns):
            live = Process()
        now, key = live, (seen.pid, seen.start_boot_ns, seen.exe)
        if not is_same_program(seen.exe, live.exe):
            now = Process()  # the program it runs now does not describe the one before
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
            user=self._users.name_of(uid) if uid is not None else "",
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
    """True if a path from the kernel, perhaps cut, is that of the executable in /proc. False if the kernel
    sent no path and /proc has one: that cannot be decided."""
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
