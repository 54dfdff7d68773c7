"""What the kernel saw of a process, completed from /proc and the cgroup tree, while it is there."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from pathlib import Path

from agent.model import Process
from agent.observe.cgroup import list_cgroups
from agent.observe.proc import ProcReader
from agent.policy.cgroups import unit_of


class Attributor:
    def __init__(self, reader: ProcReader, cgroup_mount: Path, user_name: Callable[[int], str]) -> None:
        self._reader = reader
        self._mount = cgroup_mount
        self._user_name = user_name
        self._cgroups: dict[int, str] = {}
        self._before: frozenset[int] = frozenset()
        """Known when the cgroups were last read: what came after is not gone because it was not listed."""
        self._gone: frozenset[int] = frozenset()

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

    def complete(
        self, seen: Process, *, comm: str = "", args: tuple[str, ...] = (), gids: Iterable[int] = ()
    ) -> Process:
        """`seen` is the kernel's word and wins; /proc adds what the kernel did not copy, if the process
        there is still the same one."""
        cgroup = self.cgroup_path(seen.cgroup_id)
        live = self._reader.process(seen.pid)
        if live is None or not self._reader.same_process(live.start_boot_ns, seen.start_boot_ns):
            live = Process()
        uid = seen.uid if seen.uid is not None else live.uid
        gid = seen.gid if seen.gid is not None else live.gid
        return replace(
            seen,
            comm=comm or seen.comm or live.comm,
            exe=seen.exe or live.exe,
            args=args or live.args,
            uid=uid,
            user=self._user_name(uid) if uid is not None else "",
            gid=gid,
            gids=tuple(sorted({*gids, *live.gids, *seen.gids})),
            cgroup=cgroup or live.cgroup,
            unit=unit_of(cgroup or live.cgroup),
            container=self._reader.container_of(cgroup or live.cgroup),
        )
