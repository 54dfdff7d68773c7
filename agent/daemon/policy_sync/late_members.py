"""Names that became known after the policy was compiled: executables, cgroups, network namespaces.

Any user can make new names without end. Names that a selector matches stay until they are gone. Of the names
that no selector matches, only the newest stay, so that no user can fill the kernel's table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain

from agent.policy.tables.shape import MEMBER_FLAGS, Dimension

MOST_STRANGERS = 8192
"""Limit for executables that no selector matches: as many as the kernel's table of names can store."""
MOST_GONE = 4096
"""Limit for network namespaces that are not seen any more. A descriptor alone may hold such a namespace."""

Member = tuple[Dimension, int]


@dataclass(slots=True)
class LateMembers:
    """The members that are added to those of the compiled tables. Not thread-safe."""

    sets: dict[int, int] = field(default_factory=dict)
    """Number of each set, by its clauses."""
    members: dict[Member, int] = field(default_factory=dict)
    """Number of each member's set, with flags."""
    _strangers: dict[int, None] = field(default_factory=dict)
    """Executables that no selector matches, the newest last."""
    _gone: dict[int, None] = field(default_factory=dict)
    """Namespaces that are not seen any more, the longest gone first."""

    def add(self, dimension: Dimension, value: int, clauses: int, first_free: int, flags: int = 0) -> int:
        """Add a member and return the number of its set: an existing set with the same clauses, or the next
        free number."""
        number = self.sets.setdefault(clauses, first_free + len(self.sets))
        self.members[(dimension, value)] = number | flags
        return number

    def drop(self, dimension: Dimension, value: int) -> bool:
        """Remove a member. False if it was not in the table."""
        return self.members.pop((dimension, value), None) is not None

    def stranger(self, exe: int) -> list[int]:
        """Record an executable that no selector matches. Returns the executables to remove to make room."""
        self._strangers.pop(exe, None)
        self._strangers[exe] = None
        return _first(self._strangers, len(self._strangers) - MOST_STRANGERS)

    def namespaces(self, there: frozenset[int]) -> list[int]:
        """Record which namespaces are seen now. Returns the namespaces to remove, those gone the longest."""
        for cookie in there & self._gone.keys():
            del self._gone[cookie]
        for dimension, cookie in self.members:
            if dimension is Dimension.NETNS and cookie not in there:
                self._gone.setdefault(cookie)
        return _first(self._gone, len(self._gone) - MOST_GONE)


def _first(ordered: dict[int, None], count: int) -> list[int]:
    """Remove the first `count` keys and return them."""
    taken = list(ordered)[: max(count, 0)]
    for one in taken:
        del ordered[one]
    return taken


class Layered(Mapping[Member, int]):
    """Two tables as one, without a copy; `above` takes precedence.

    Another thread may add to `above` while this one reads. A member whose set is newer than `sets` is not
    visible here."""

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
