"""Rows of listeners where there is no room, and where a program changes one at the same moment."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from agent import abi
from agent.daemon.tracking.listener_rows import ListenerRows
from tests.unit.kernel.memory_map import MemoryMap

PLACE, OTHER = b"place", b"other"


class Tables:
    def __init__(self, *, room: int = 1) -> None:
        self.owners = InUse(max_entries=room)
        self.strangers = MemoryMap(max_entries=room)
        self.rightful = MemoryMap(max_entries=room)
        self.crowded = MemoryMap()
        self.rows = ListenerRows(self.owners, self.strangers, self.rightful, self.crowded)  # type: ignore[arg-type]

    def cookies(self) -> list[list[int]]:
        """In owners, strangers, rightful."""
        tables = (self.owners, self.strangers, self.rightful)
        return [[row_of(raw).cookie for raw in table.rows.values()] for table in tables]


class InUse(MemoryMap):
    """A program does something right before the next row is taken."""

    def __init__(self, *, max_entries: int) -> None:
        super().__init__(max_entries=max_entries)
        self.before_take: Callable[[], object] = lambda: None

    def take(self, key: bytes) -> bytes | None:
        self.before_take()
        return super().take(key)


def row(cookie: int, *, stranger_to: int = 0, flags: int = 0) -> abi.ListenerOwner:
    return abi.ListenerOwner(cookie=cookie, stranger_to=stranger_to, flags=flags)


def row_of(raw: bytes) -> abi.ListenerOwner:
    return abi.ListenerOwner.from_buffer_copy(raw)


@pytest.mark.parametrize(
    ("fresh", "noted", "where"),
    [
        (row(2), False, [[1], [], []]),
        (row(2, stranger_to=3), True, [[1], [2], []]),
        (row(2, flags=abi.Listener.OWNER), True, [[1], [], [2]]),
        (row(2, flags=abi.Listener.ACTIVATED), True, [[1], [], [2]]),
        (row(2, flags=abi.Listener.TRANSPARENT), True, [[1], [], [2]]),
    ],
)
def test_what_a_verdict_rests_on_has_room_of_its_own(
    fresh: abi.ListenerOwner, noted: bool, where: list[list[int]]
) -> None:
    tables = Tables()
    tables.rows.put(OTHER, None, row(1))
    assert tables.rows.put(PLACE, None, fresh) is noted
    assert tables.cookies() == where
    assert tables.crowded.rows == {}


def test_a_stranger_without_any_room_is_told_of() -> None:
    tables = Tables()
    for number, place in enumerate((OTHER, b"one")):
        tables.rows.put(place, None, row(number, stranger_to=3))
    assert not tables.rows.put(PLACE, None, row(9, stranger_to=3))
    assert list(tables.crowded.rows) == [abi.U32.pack(3)]


def test_who_is_no_stranger_any_more_gives_up_strangers_room_and_the_other_way_round() -> None:
    tables = Tables()
    tables.rows.put(OTHER, None, row(1))
    tables.rows.put(PLACE, None, row(2, stranger_to=3))
    tables.rows.put(PLACE, tables.rows.seen(PLACE), row(2, flags=abi.Listener.OWNER))
    assert tables.cookies() == [[1], [], [2]]
    tables.rows.put(PLACE, tables.rows.seen(PLACE), row(2, stranger_to=3))
    assert tables.cookies() == [[1], [2], []]


def test_a_row_that_a_program_has_made_since_stays() -> None:
    tables = Tables()
    tables.rows.put(PLACE, None, row(1))
    seen = tables.rows.seen(PLACE)
    tables.owners.before_take = lambda: tables.owners.put(PLACE, bytes(row(2, stranger_to=3)))
    assert tables.rows.put(PLACE, seen, row(1, flags=abi.Listener.OWNER))
    assert tables.cookies() == [[2], [], []]
    assert seen
    tables.rows.forget(PLACE, seen)
    assert tables.cookies() == [[2], [], []]


def test_a_row_that_a_program_has_deleted_does_not_come_back() -> None:
    tables = Tables()
    tables.rows.put(PLACE, None, row(1))
    seen = tables.rows.seen(PLACE)
    tables.owners.before_take = lambda: tables.owners.remove(PLACE)
    assert tables.rows.put(PLACE, seen, row(1, flags=abi.Listener.OWNER))
    assert tables.cookies() == [[], [], []]


@pytest.mark.parametrize(
    ("before", "flags"),
    [(row(1, stranger_to=3), 0), (row(1, flags=abi.Listener.OWNER), abi.Listener.OWNER)],
)
def test_what_a_verdict_rests_on_is_there_at_every_moment(before: abi.ListenerOwner, flags: int) -> None:
    tables = Tables()
    tables.rows.put(PLACE, None, before)
    found = []
    tables.owners.before_take = lambda: found.append(tables.cookies())
    fresh = row(1, stranger_to=before.stranger_to, flags=flags | abi.Listener.SHARES)
    tables.rows.put(PLACE, tables.rows.seen(PLACE), fresh)
    assert found in ([[[1], [1], []]], [[[1], [], [1]]])
    assert tables.cookies() == [[1], [], []]


@pytest.mark.parametrize("before", [row(1), row(1, stranger_to=3), row(1, flags=abi.Listener.OWNER)])
@pytest.mark.parametrize(
    ("fresh", "where"),
    [(row(2, stranger_to=3), [[7], [2], []]), (row(2, flags=abi.Listener.OWNER), [[7], [], [2]])],
)
def test_room_that_others_take_meanwhile_costs_nobody(
    before: abi.ListenerOwner, fresh: abi.ListenerOwner, where: list[list[int]]
) -> None:
    tables = Tables()
    tables.rows.put(PLACE, None, before)
    seen = tables.rows.seen(PLACE)
    taken = tables.owners.take

    def flood(key: bytes) -> bytes | None:
        found = taken(key)
        tables.owners.put(OTHER, bytes(row(7)))
        return found

    tables.owners.take = flood  # type: ignore[method-assign]
    assert tables.rows.put(PLACE, seen, fresh)
    assert tables.cookies() == where
