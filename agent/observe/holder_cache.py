"""Caches the holders of listening sockets, so that a query every few seconds costs almost nothing.

Instead of rescanning every descriptor, it checks only what invalidates the cache: new processes, new
sockets, and holders that have ended, run another program or closed their descriptor.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field

from agent.model import INIT, Process, Socket
from agent.observe.proc import ProcReader
from agent.observe.proc_files import Stat
from agent.observe.socket_holders import find_holders

_REFRESH_S = 60.0
"""All entries are read again after this time: ids and cgroups of a process can change unnoticed."""
_CHEAP_S = 0.05
_REST = 100
"""After a scan of all descriptors that took longer than _CHEAP_S, the next waits 100 times as long. A
proxy with 100,000 connections thus costs at most 1 % of a core. Until the next scan, a new socket has a
holder only if the process that called listen() holds it. Where that process is not known, as for UDP, a
process that started since the scan counts, too. A process whose descriptors took long to read waits in the
same way."""

_Key = tuple[int, int]
"""(inode, cookie) of a socket. The inode number alone is reused."""


@dataclass(frozen=True, slots=True)
class _Holding:
    process: Process
    stat: Stat
    fds: dict[int, int] = field(default_factory=dict)
    """Descriptor by socket inode."""


class OwnerCache:
    """Not thread-safe."""

    def __init__(self, reader: ProcReader, clock: Callable[[], float] = time.monotonic) -> None:
        self._reader = reader
        self._clock = clock
        self._holdings: dict[int, _Holding] = {}
        self._pids: frozenset[int] = frozenset()
        self._passed: frozenset[int] = frozenset()
        """Processes whose descriptors the last scan has read."""
        self._sought: frozenset[_Key] = frozenset()
        """Sockets whose holders are known, including those that no process holds."""
        self._asked: set[_Key] = set()
        """Sockets whose opener's descriptors have been read, or, without an opener, those of the young."""
        self._rests_until_s: dict[int, float] = {}
        """By pid of an opener whose many descriptors took long to read: when to read them next."""
        self._young_rest_until_s = 0.0
        self._refresh_at_s = 0.0
        self._next_pass_at_s = 0.0

    def owners(
        self,
        sockets: Collection[Socket],
        netns_cookies: Mapping[int, int],
        openers: Mapping[int, int] | None = None,
    ) -> dict[int, tuple[Process, ...]]:
        """The processes that hold each socket, by the socket's cookie; the process that started first
        comes first.

        `openers`: pid of the process that called listen(), by cookie, if known. Sockets without a known
        holder are left out."""
        wanted = frozenset((one.inode, one.cookie) for one in sockets if one.inode)
        inodes = frozenset(inode for inode, _ in wanted)
        pids = frozenset(self._reader.pids())
        held_before = self._held()
        stale = self._drop_stale(pids, inodes)
        now_s = self._clock()
        if now_s >= self._refresh_at_s:
            self._look_everywhere(pids, inodes, wanted, netns_cookies)
        else:
            self._look_at(stale | (pids - self._pids), inodes, netns_cookies)
            self._pids, self._passed = pids, self._passed & pids
            ended = self._look_at_openers(wanted, openers or {}, netns_cookies)
            if ended or (held_before & inodes) - self._held():
                # pid 1 holds the sockets that its children open for it (socket activation)
                self._look_at((INIT,), inodes, netns_cookies)
            lost = (held_before & inodes) - self._held()
            if (lost or not wanted <= self._sought) and now_s >= self._next_pass_at_s:
                self._look_everywhere(pids, inodes, wanted, netns_cookies)
            else:
                self._look_at_young(wanted, openers or {}, netns_cookies)
        self._sought &= wanted
        self._asked &= wanted
        return self._answer(sockets)

    def _look_at_openers(
        self, wanted: frozenset[_Key], openers: Mapping[int, int], netns_cookies: Mapping[int, int]
    ) -> bool:
        """Read each opener's descriptors once per new socket. A process that hides its descriptor is thus
        not read for ever. Return True if an opener has ended and its socket has no known holder."""
        inodes, held = {inode for inode, _ in wanted}, self._held()
        ended = False
        for key in wanted - self._sought - self._asked:
            inode, cookie = key
            pid, started_s = openers.get(cookie), self._clock()
            if inode in held or pid is None or started_s < self._rests_until_s.get(pid, 0.0):
                continue
            self._asked.add(key)
            self._look_at((pid,), inodes, netns_cookies)
            held = self._held()
            ended |= inode not in held and pid not in self._pids
            took_s = self._clock() - started_s
            if took_s > _CHEAP_S:
                self._rests_until_s[pid] = self._clock() + took_s * _REST
        return ended

    def _look_at_young(
        self, wanted: frozenset[_Key], openers: Mapping[int, int], netns_cookies: Mapping[int, int]
    ) -> None:
        """A process that was new at the look before may have bound its socket since."""
        held, started_s = self._held(), self._clock()
        unnamed = {
            (inode, cookie)
            for inode, cookie in wanted - self._sought - self._asked
            if inode not in held and cookie not in openers
        }
        if not unnamed or started_s < self._young_rest_until_s:
            return
        self._asked |= unnamed
        self._look_at(self._pids - self._passed, {inode for inode, _ in wanted}, netns_cookies)
        took_s = self._clock() - started_s
        if took_s > _CHEAP_S:
            self._young_rest_until_s = self._clock() + took_s * _REST

    def _held(self) -> set[int]:
        return {inode for holding in self._holdings.values() for inode in holding.fds}

    def _drop_stale(self, pids: frozenset[int], inodes: Collection[int]) -> frozenset[int]:
        """Forget processes that have ended or changed. Return those that changed, to be read again."""
        stale = set()
        for pid, holding in list(self._holdings.items()):
            if pid not in pids or self._reader.stat(pid) != holding.stat or not self._still(pid, inodes):
                del self._holdings[pid]
                stale.add(pid)
        for pid in self._rests_until_s.keys() - pids:
            del self._rests_until_s[pid]
        return frozenset(stale) & pids

    def _still(self, pid: int, inodes: Collection[int]) -> bool:
        fds = self._holdings[pid].fds
        for inode in [inode for inode in fds if inode not in inodes]:
            del fds[inode]  # no longer a listening socket
        return self._reader.holds_all(pid, fds)

    def _look_everywhere(
        self,
        pids: frozenset[int],
        inodes: Collection[int],
        wanted: frozenset[_Key],
        netns_cookies: Mapping[int, int],
    ) -> None:
        started_s = self._clock()
        self._holdings.clear()
        self._look_at(pids, inodes, netns_cookies)
        self._pids, self._passed, self._sought = pids, pids, wanted
        ended_s = self._clock()
        took_s = ended_s - started_s
        self._next_pass_at_s = ended_s + took_s * _REST if took_s > _CHEAP_S else 0.0
        self._refresh_at_s = max(ended_s + _REFRESH_S, self._next_pass_at_s)

    def _look_at(
        self, pids: Iterable[int], inodes: Collection[int], netns_cookies: Mapping[int, int]
    ) -> None:
        fds_by_pid: dict[int, dict[int, int]] = {}
        for inode, holders in find_holders(self._reader, inodes, pids).items():
            for holder in holders:
                fds_by_pid.setdefault(holder.pid, {})[inode] = holder.fd
        for pid, fds in fds_by_pid.items():
            stat = self._reader.stat(pid)
            process = self._reader.process(pid, netns_cookies)
            # checked last: the facts then belong to the holder of the socket, not to a successor with its pid
            if stat and process and self._reader.holds_all(pid, fds):
                self._holdings[pid] = _Holding(process, stat, fds)

    def _answer(self, sockets: Iterable[Socket]) -> dict[int, tuple[Process, ...]]:
        by_inode: dict[int, list[Process]] = {}
        for holding in self._holdings.values():
            for inode in holding.fds:
                by_inode.setdefault(inode, []).append(holding.process)
        ordered = {
            inode: tuple(sorted(found, key=_by_start) if len(found) > 1 else found)
            for inode, found in by_inode.items()
        }
        return {one.cookie: ordered[one.inode] for one in sockets if one.inode in ordered}


def _by_start(process: Process) -> tuple[int, int]:
    return process.start_boot_ns, process.pid
