"""Names that became known after the policy was compiled: executables, cgroups, network namespaces.

Anybody can make new ones without end. Those that the policy speaks of stay until they are gone; of those that
say nothing but "no selector means this one", the newest stay, so that nobody fills the kernel's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from agent.policy.tables.shape import MEMBER_FLAGS, Dimension

MOST_STRANGERS = 8192
"""Executables that no selector takes: as many as the kernel's table of names has room for."""
MOST_GONE = 4096
"""Network namespaces that are not seen any more: one may be held by a descriptor alone."""

Member = tuple[Dimension, int]


@dataclass(slots=True)
class LateMembers:
    """Beside the members of the compiled tables. Not thread-safe."""

    sets: dict[int, int] = field(default_factory=dict)
    """Number by set of clauses."""
    members: dict[Member, int] = field(default_factory=dict)
    """Number of the set, with flags."""
    _strangers: dict[int, None] = field(default_factory=dict)
    """Executables, the newest last."""
    _gone: dict[int, None] = field(default_factory=dict)
    """Namespaces, the longest gone first."""

    def add(self, dimension: Dimension, value: int, clauses: int, first_free: int, flags: int = 0) -> int:
        """The number of the set: that of the same clauses, or the next free one."""
        number = self.sets.setdefault(clauses, first_free + len(self.sets))
        self.members[(dimension, value)] = number | flags
        return number

    def drop(self, dimension: Dimension, value: int) -> bool:
        """False: it was not there."""
        return self.members.pop((dimension, value), None) is not None

    def stranger(self, exe: int) -> list[int]:
        """Notes an executable that no selector takes; those to be let go of, to make room."""
        self._strangers.pop(exe, None)
        self._strangers[exe] = None
        return _first(self._strangers, len(self._strangers) - MOST_STRANGERS)

    def namespaces(self, there: frozenset[int]) -> list[int]:
        """Notes which namespaces are seen now; those to be let go of, gone the longest."""
        for cookie in there & self._gone.keys():
            del self._gone[cookie]
        for dimension, cookie in self.members:
            if dimension is Dimension.NETNS and cookie not in there:
                self._gone.setdefault(cookie)
        return _first(self._gone, len(self._gone) - MOST_GONE)


def _first(ordered: dict[int, None], count: int) -> list[int]:
    """Takes so many out."""
    taken = list(ordered)[: max(count, 0)]
    for one in taken:
        del ordered[one]
    return taken


class Layered(Mapping[Member, int]):
    """Two tables as one, without a copy: what is in `above` counts. A reader may be in another thread than
    who adds to `above`: he does not see what names a set that came after his own `sets`."""

    __slots__ = ("_above", "_below", "_sets")

    def __init__(self, above: Mapping[Member, int], below: Mapping[Member, int], sets: int) -> None:
        self._above = above
        self._below = below
        self._sets = sets

    def __getitem__(self, key: Member) -> int:
        found = self._above.get(key)
        return self._below[key] if found is None or not self._is_seen(found) else found

    def __iter__(self) -> Iterator[Member]:
        above = {key for key, value in dict(self._above).items() if self._is_seen(value)}
        return chain(above, (key for key in self._below if key not in above))

    def _is_seen(self, value: int) -> bool:
        return value & ~MEMBER_FLAGS < self._sets

    def __len__(self) -> int:
        return sum(1 for _ in self)
