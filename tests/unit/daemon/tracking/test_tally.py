from __future__ import annotations

import sys
import threading
from collections.abc import Iterator

import pytest

from agent.daemon.tracking.tally import Recent, Tally


class Slow:
    """A key in Python: looking it up can be interrupted by another thread."""

    def __hash__(self) -> int:
        return sum(1 for _ in range(3))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slow) and bool(sum(1 for _ in range(3)))


@pytest.fixture
def busy() -> Iterator[None]:
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(before)


@pytest.mark.usefixtures("busy")
def test_no_count_is_lost_where_threads_add_to_the_same_key() -> None:
    tally: Tally[Slow] = Tally()

    def add() -> None:
        for _ in range(5000):
            tally.add(Slow())

    threads = [threading.Thread(target=add) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert list(tally.counts().values()) == [15000]


def test_what_was_read_does_not_change() -> None:
    tally: Tally[str] = Tally()
    tally.add("a")
    read = tally.counts()
    tally.add("a", 2)
    assert (read, tally.counts()) == ({"a": 1}, {"a": 3})


def test_a_key_is_new_once_while_it_is_among_the_last() -> None:
    recent: Recent[int] = Recent(3)
    assert [recent.is_new(key) for key in (1, 2, 1, 3, 1)] == [True, True, False, True, False]
    assert recent.is_new(4), "takes the place of 2, which was met longest ago"
    assert not recent.is_new(1)
    assert recent.is_new(2)


def test_keys_without_end_take_no_memory() -> None:
    recent: Recent[int] = Recent(100)
    assert all(recent.is_new(key) for key in range(10_000))
    assert len(recent) == 100
