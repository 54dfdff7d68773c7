"""The tables of datagram senders: deletes idle rows and counts evicted ones."""

from __future__ import annotations

from agent import abi
from agent.kernel.tables.counters import Counters
from agent.system.bpf_map import Map

IDLE_NS = 60 * 10**9
"""Idle time after which a row is deleted. Programs use a row for half of it, so none that they refresh
meanwhile is deleted."""


class DatagramRows:
    def __init__(self, counters: Counters) -> None:
        self._counters = counters
        self._tables = (
            (counters.senders, abi.Sender.seen_ns.offset),
            (counters.sents, abi.Sent.time_ns.offset),
            (counters.peers, abi.Peer.seen_ns.offset),
        )
        self._gone: list[int] = []
        """By table: rows that are gone since before this daemon, or because this daemon deleted them."""
        self._evicted = [0] * len(self._tables)

    def losses(self) -> dict[str, int]:
        """Rows that were still needed when a full table evicted them, since this daemon started."""
        return {"datagrams": sum(self._evicted)}

    def sweep(self, now_ns: int) -> None:
        """Delete idle rows and count evicted ones. `now_ns` is CLOCK_BOOTTIME.

        A row made during the listing counts as no loss, whether or not the listing has it. The rows made
        during the first listing hide as many losses."""
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
    """(number of rows, keys of the idle ones). `at` is the offset of the time in a row."""
    rows = list(table.items())
    long_ago = now_ns - IDLE_NS
    return len(rows), [key for key, row in rows if abi.U64.unpack_from(row, at)[0] < long_ago]
