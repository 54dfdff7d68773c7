"""The tables of who sends datagrams: what has been idle is taken away, and what was pushed out is counted."""

from __future__ import annotations

from agent import abi
from agent.kernel.tables.counters import Counters
from agent.system.bpf_map import Map

IDLE_NS = 60 * 10**9
"""Twice as long as programs go by a row: none that they refresh meanwhile is taken away."""


class DatagramRows:
    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._tables = (
            (counters.senders, abi.Sender.seen_ns.offset),
            (counters.sents, abi.Sent.time_ns.offset),
            (counters.peers, abi.Peer.seen_ns.offset),
        )
        self._gone: list[int] = []
        """By table: rows that are not there any more, from before this daemon or as it took them away."""
        self._evicted = [0] * len(self._tables)

    def losses(self) -> dict[str, int]:
        """Rows of use that a full table has pushed out, since this daemon began."""
        return {"datagrams": sum(self._evicted)}

    def sweep(self, now_ns: int) -> None:
        """now_ns: CLOCK_BOOTTIME. A row that is made while others are listed is no loss, whether or not it is
        among them; those of the first listing hide as many losses."""
        before = self._counters.datagram_rows()
        found = [_idle(table, at, now_ns) for table, at in self._tables]
        if not self._gone:
            after = self._counters.datagram_rows()
            self._gone = [made - there for made, (there, _) in zip(after, found, strict=True)]
        for number, ((table, _), (there, idle)) in enumerate(zip(self._tables, found, strict=True)):
            missing = before[number] - there - self._gone[number]
            self._evicted[number] = max(self._evicted[number], missing)
            self._gone[number] += sum(table.remove(key) for key in idle)


def _idle(table: Map, at: int, now_ns: int) -> tuple[int, list[bytes]]:
    """How many rows there are, and the keys of those that have been idle. `at`: of their time, in a row."""
    rows = list(table.items())
    long_ago = now_ns - IDLE_NS
    return len(rows), [key for key, row in rows if abi.U64.unpack_from(row, at)[0] < long_ago]
