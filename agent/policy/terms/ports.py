"""Sets of port ranges, and the pieces into which ranges cut each other."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from operator import itemgetter
from typing import Generic, Protocol, TypeVar


class Range(Protocol):
    """Ports, both ends included."""

    @property
    def first(self) -> int: ...
    @property
    def last(self) -> int: ...


_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class Ports:
    """A set of ports whose cost grows with its ranges, which are disjoint and in order."""

    ranges: tuple[tuple[int, int], ...] = ()
    """Both ends included."""

    @classmethod
    def of(cls, ranges: Iterable[Range]) -> Ports:
        """From ranges in any order, which may overlap."""
        merged: list[tuple[int, int]] = []
        for first, last in sorted((one.first, one.last) for one in ranges):
            if merged and first <= merged[-1][1] + 1:
                before = merged.pop()
                first, last = before[0], max(before[1], last)
            merged.append((first, last))
        return cls(tuple(merged))

    def __contains__(self, port: object) -> bool:
        if not isinstance(port, int):
            return False
        place = bisect_right(self.ranges, port, key=lambda one: one[0]) - 1
        return place >= 0 and port <= self.ranges[place][1]

    def __iter__(self) -> Iterator[int]:
        for first, last in self.ranges:
            yield from range(first, last + 1)

    def __bool__(self) -> bool:
        return bool(self.ranges)


def pieces(
    items: Iterable[_Item], ports_of: Callable[[_Item], Range]
) -> Iterator[tuple[int, int, tuple[_Item, ...]]]:
    """(first, last, items whose range contains it) for each piece. Pieces lie between two ports at which a
    range begins or ends, in the order of ports."""
    waiting = sorted(items, key=lambda one: ports_of(one).first)
    here: list[_Item] = []
    arrived = 0
    for first, following in pairwise(borders(map(ports_of, waiting))):
        here = [one for one in here if ports_of(one).last >= first]
        while arrived < len(waiting) and ports_of(waiting[arrived]).first == first:
            here.append(waiting[arrived])
            arrived += 1
        if here:
            yield first, following - 1, tuple(here)


def borders(ranges: Iterable[Range]) -> list[int]:
    """Ports at which a range begins, or has just ended; in order."""
    return sorted({port for one in ranges for port in (one.first, one.last + 1)})


def pieces_of(one: Range, cut_at: list[int]) -> int:
    """Into how many pieces these borders cut a range. The borders must include those of the range."""
    return bisect_left(cut_at, one.last + 1) - bisect_left(cut_at, one.first)


@dataclass(frozen=True, slots=True)
class ByPort(Generic[_Item]):
    """Finds the items whose range has a port, without looking at all of them."""

    pieces: tuple[tuple[int, int, tuple[_Item, ...]], ...] = ()
    """(first, last, items). Disjoint and in the order of ports."""

    @classmethod
    def of(cls, items: Iterable[_Item], ports_of: Callable[[_Item], Range]) -> ByPort[_Item]:
        found = []
        for first, last, here in pieces(enumerate(items), lambda one: ports_of(one[1])):
            in_order = sorted(here, key=itemgetter(0))
            found.append((first, last, tuple(item for _, item in in_order)))
        return cls(tuple(found))

    def at(self, port: int) -> tuple[_Item, ...]:
        """The items that have this port, in the order in which they were given."""
        place = bisect_right(self.pieces, port, key=itemgetter(0)) - 1
        if place < 0:
            return ()
        _, last, items = self.pieces[place]
        return items if port <= last else ()
