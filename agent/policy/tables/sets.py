"""The sets of clauses that the tables refer to by number."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence

from agent.policy.findings import policy_errors
from agent.policy.tables.index import Index
from agent.policy.tables.shape import (
    GIDS_IN_SET,
    LISTED_GROUPS,
    MAX_SETS,
    NO_GID,
    SET_BITS,
    Dimension,
    SetId,
)
from agent.policy.values import Finding, Place, Policy


class Sets:
    """Stores each distinct set once, and gives it a number. Sets with a fixed number come first."""

    def __init__(self, index: Index) -> None:
        fixed = [0] * SetId.FIRST_FREE
        fixed[SetId.MISS + Dimension.EXE] = index.silent[Dimension.EXE] | index.open
        for dimension in (Dimension.UID, Dimension.GID, Dimension.CGROUP):
            fixed[SetId.MISS + dimension] = index.silent[dimension]
        # An unknown namespace may have any address.
        fixed[SetId.MISS + Dimension.NETNS] = index.everything
        fixed[SetId.MISS_SOURCE] = index.anyone
        fixed[SetId.ALL] = index.everything
        fixed[SetId.IN_CONTAINER] = index.everything & ~index.confined
        fixed[SetId.ELSEWHERE] = index.everything & ~index.confined_exe
        fixed[SetId.ANY_CONTAINER] = index.any_container
        fixed[SetId.OWNED] = index.owned
        fixed[SetId.SUBORDINATE] = index.subordinate
        for mask in range(SetId.FIRST_FREE - SetId.CERTAIN):
            fixed[SetId.CERTAIN + mask] = index.certain(mask)
        self._sets = fixed
        self._ids = {0: int(SetId.EMPTY)}
        self._lists: dict[tuple[int, ...], int] = {}
        self._clauses = index.everything.bit_length()
        self._most_gids = 0

    def id_of(self, bits: int) -> int:
        number = self._ids.setdefault(bits, len(self._sets))
        if number == len(self._sets):
            self._sets.append(bits)
        return number

    def list_of(self, gids: Sequence[int]) -> int:
        """Number of the first of two sets that hold these gids, at most 64 (see `check`)."""
        self._most_gids = max(self._most_gids, len(gids))
        filled = (*gids, *[NO_GID] * (LISTED_GROUPS - len(gids)))
        number = self._lists.setdefault(filled, len(self._sets))
        if number == len(self._sets):
            for first in range(0, LISTED_GROUPS, GIDS_IN_SET):
                part = filled[first : first + GIDS_IN_SET]
                self._sets.append(sum(gid << 32 * place for place, gid in enumerate(part)))
        return number

    def __getitem__(self, number: int) -> int:
        return self._sets[number]

    @property
    def all(self) -> tuple[int, ...]:
        return tuple(self._sets)

    def copy(self) -> Sets:
        """Sets that can be added to without changing these."""
        same = copy.copy(self)
        same._sets, same._ids, same._lists = [*self._sets], {**self._ids}, {**self._lists}
        return same

    def check(self, policy: Policy) -> None:
        """Raises PolicyErrors if the kernel's tables have no room for all of them."""
        place = Place(policy.files[0] if policy.files else "policy")
        if found := [Finding(place, reason, remedy) for reason, remedy in self.too_many()]:
            raise policy_errors(found)

    def too_many(self) -> Iterator[tuple[str, str]]:
        """The reason and the remedy for each limit that is exceeded."""
        if len(self._sets) > MAX_SETS:
            reason = f"{len(self._sets)} different combinations of selectors, {MAX_SETS} are the most"
            yield reason, "fewer overlapping CIDRs or shared executables"
        if self._clauses > SET_BITS:
            reason = f"{self._clauses - 1:,} selectors in all, {SET_BITS - 1:,} are the most"
            yield reason, "list several values in one selector"
        if self._most_gids > LISTED_GROUPS:
            reason = f"a target with {self._most_gids} groups, {LISTED_GROUPS} are the most"
            yield reason, "select by fewer groups, or by user, unit or exe"
