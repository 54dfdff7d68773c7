"""Rows of idle senders are taken away; those that a full table has pushed out are counted."""

from __future__ import annotations

import itertools
from types import SimpleNamespace

import pytest

from agent import abi
from agent.daemon.tracking.datagram_rows import IDLE_NS, DatagramRows
from tests.unit.kernel.memory_map import MemoryMap

NOW = 10 * IDLE_NS


class Tables:
    """Those of the kernel; it counts what it makes."""

    def __init__(self) -> None:
        self.senders, self.sents, self.peers = MemoryMap("senders"), MemoryMap("sents"), MemoryMap("peers")
        self.made = [0, 0, 0]

    def make(self, number: int, key: bytes, seen_ns: int) -> None:
        row = (abi.Sender(seen_ns=seen_ns), abi.Sent(time_ns=seen_ns), abi.Peer(seen_ns=seen_ns))[number]
        (self.senders, self.sents, self.peers)[number].put(key, bytes(row))
        self.made[number] += 1

    def rows(self) -> DatagramRows:
        return DatagramRows(
            SimpleNamespace(  # type: ignore[arg-type]
                senders=self.senders,
                sents=self.sents,
                peers=self.peers,
                datagram_rows=lambda: tuple(self.made),
            )
        )


def test_what_is_idle_goes_and_is_no_loss() -> None:
    tables = Tables()
    rows = tables.rows()
    rows.sweep(NOW)
    for number in range(3):
        tables.make(number, b"old", NOW - 2 * IDLE_NS)
        tables.make(number, b"new", NOW - IDLE_NS // 2)
    rows.sweep(NOW)
    rows.sweep(NOW)
    assert [list(table.rows) for table in (tables.senders, tables.sents, tables.peers)] == [[b"new"]] * 3
    assert rows.losses() == {"datagrams": 0}


@pytest.mark.parametrize("among_them", [True, False])
def test_what_is_made_while_others_are_listed_is_no_loss(
    monkeypatch: pytest.MonkeyPatch, among_them: bool
) -> None:
    tables = Tables()
    rows, items, made = tables.rows(), tables.peers.items, itertools.count()

    def beside() -> list[tuple[bytes, bytes]]:
        def make() -> None:
            for number in itertools.islice(made, 3):
                tables.make(2, b"%d" % number, NOW)

        if among_them:
            make()
        listed = list(items())
        if not among_them:
            make()
        return listed

    monkeypatch.setattr(tables.peers, "items", beside)
    for _ in range(3):
        rows.sweep(NOW)
        assert rows.losses() == {"datagrams": 0}
    monkeypatch.undo()
    rows.sweep(NOW)
    tables.peers.remove(b"0")
    rows.sweep(NOW)
    assert rows.losses() == {"datagrams": 1 if among_them else 0}, (
        "at most what came during the first listing"
    )


def test_what_was_pushed_out_is_counted_once() -> None:
    tables = Tables()
    tables.made = [100, 0, 7]  # before this daemon
    rows = tables.rows()
    rows.sweep(NOW)
    for name in (b"a", b"b", b"c"):
        tables.make(2, name, NOW)
    tables.peers.remove(b"a")
    tables.peers.remove(b"b")
    rows.sweep(NOW)
    assert rows.losses() == {"datagrams": 2}
    rows.sweep(NOW)
    assert rows.losses() == {"datagrams": 2}
    tables.peers.remove(b"c")
    rows.sweep(NOW)
    assert rows.losses() == {"datagrams": 3}
