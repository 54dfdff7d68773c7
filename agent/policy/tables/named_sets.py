"""What of the tables follows from the clauses alone: the sets of everything that the policy names."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from agent.model import HostFacts, Network
from agent.policy.tables.clauses import Clause
from agent.policy.tables.index import Index, index_clauses
from agent.policy.tables.members import cgroup_members, host_root, other_members
from agent.policy.tables.sets import Sets
from agent.policy.tables.shape import Dimension, SubordinateKey


@dataclass(frozen=True, slots=True)
class NamedSets:
    """Tables in the forms of `shape`, and the sets that they refer to so far."""

    index: Index
    sets: Sets
    members: dict[tuple[Dimension, int], int]
    sources: dict[Network, int]
    subordinates: dict[SubordinateKey, int]

    def copy(self) -> NamedSets:
        """The same, with sets to which others can be added."""
        return replace(self, sets=self.sets.copy())


def named_sets(clauses: Sequence[Clause], facts: HostFacts) -> NamedSets:
    index = index_clauses(clauses, facts)
    sets = Sets(index)
    members = {key: sets.id_of(bits) for key, bits in other_members(index, facts)}
    for key, bits, flags in cgroup_members(index, facts):
        members[key] = sets.id_of(bits) | flags
    members.update(host_root(facts))
    members.update(((Dimension.EXE_SHAPE, n), shape.word) for n, shape in enumerate(index.shapes))
    sources = {network: sets.id_of(bits | index.anyone) for network, bits in index.sources.items()}
    subordinates = {key: sets.id_of(bits) for key, bits in index.subordinates.items()}
    return NamedSets(index, sets, members, sources, subordinates)
