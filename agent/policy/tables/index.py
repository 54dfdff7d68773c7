"""Which clauses hold with which value, for each dimension. `compile` writes this down for every known value.
The daemon asks again for a name that appears later."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from agent.model import Address, Container, HostFacts, Network
from agent.policy.tables.clauses import Clause
from agent.policy.tables.flatten import flatten
from agent.policy.tables.shape import Dimension, SubordinateKey, Uncertain
from agent.policy.terms.cgroups import NOTHING_KNOWN, Ground, template_of
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.terms.hashing import glob_of
from agent.policy.terms.networks import prefixes_of
from agent.policy.terms.paths import (
    ExeKind,
    Shape,
    Starred,
    directory_of,
    exe_kind,
    exe_matches,
    plain,
    starred,
)
from agent.policy.terms.subordinates import blocks_of
from agent.policy.terms.symlinks import linked, spellings
from agent.policy.values import ANYONE

SPOKEN = (Dimension.EXE, Dimension.UID, Dimension.GID, Dimension.CGROUP, Dimension.NETNS)


@dataclass(frozen=True, slots=True)
class Index:
    """Bit sets by value. `silent` has the clauses that do not constrain a dimension, and so hold in it."""

    silent: Mapping[Dimension, int]
    everything: int
    literals: Mapping[str, int]
    """By path, the ends of symbolic links included."""
    directories: Mapping[str, int]
    starred: Mapping[Starred, int]
    globs: Mapping[str, int]
    """Globs that only user space can match."""
    uids: Mapping[int, int]
    gids: Mapping[int, int]
    cgroups: Mapping[str, int]
    """By unit name, or by path (which starts with a slash)."""
    containers: Mapping[ContainerSelector, int]
    networks: Mapping[Network, int]
    """The longest prefix decides: each set includes those of the networks around it."""
    sources: Mapping[Network, int]
    """By network, only the clauses that an address alone satisfies."""
    principals: Mapping[str, int]
    excluded: Mapping[str, int]
    """Clauses used in exclusions."""
    owner_uids: Mapping[int, int]
    """By the owner of the user namespace that a process is in."""
    owner_gids: Mapping[int, int]
    owner_members: Mapping[int, int]
    """By that owner's uid, because of the owner's groups."""
    subordinates: Mapping[SubordinateKey, int]
    owned: int
    """All clauses that hold because of an owner."""
    confined: int
    """Clauses that are only about processes outside containers."""
    confined_exe: int
    """Those of `confined` that have an executable."""

    @property
    def subordinate(self) -> int:
        """Clauses that hold for subordinate ids of the users they name."""
        return _union(self.subordinates.values())

    @property
    def anyone(self) -> int:
        """The clause without a condition."""
        return self.principals.get(ANYONE, 0)

    @property
    def open(self) -> int:
        """Clauses that could hold for any executable whose name is not known."""
        return _union(self.globs.values())

    def executable(self, path: str) -> int:
        found = self.literals.get(path, 0) | self.directories.get(directory_of(path), 0)
        matching = _union(bits for pattern, bits in self.globs.items() if exe_matches(pattern, path))
        return self.silent[Dimension.EXE] | found | matching | self._starred_at(path)

    def _starred_at(self, path: str) -> int:
        globs = (glob_of(path, shape) for shape in self.shapes)
        return _union(self.starred.get(glob, 0) for glob in globs if glob)

    @property
    def shapes(self) -> list[Shape]:
        return sorted({glob.shape for glob in self.starred})

    def directory(self, path: str) -> int:
        """Clauses that could hold for an executable of unknown name in this directory."""
        return self.silent[Dimension.EXE] | self.directories.get(path, 0) | self.open

    @property
    def of_containers(self) -> int:
        """Clauses that could hold for a container whose name is not known."""
        return _union(self.containers.values())

    @property
    def any_container(self) -> int:
        """Clauses that hold for any container, known or not."""
        return _union(bits for selector, bits in self.containers.items() if selector.any)

    def cgroup(self, path: str, container: Container | None = None, ground: Ground = NOTHING_KNOWN) -> int:
        """Clauses that hold for exactly this cgroup, and the container it is; cgroups below it inherit
        through their ancestors. For a container whose name is not known: those that could hold (see
        `unsure`)."""
        return self.given_cgroup(path) | self._unit(ground.unit_at(path)) | self._container(container)

    def given_cgroup(self, path: str) -> int:
        """Clauses for a cgroup that any user could have created, or that is in a container: only its path
        counts."""
        return self.silent[Dimension.CGROUP] | self.cgroups.get(path, 0)

    def unit(self, unit: str, container: Container | None = None) -> int:
        """Clauses for the own cgroup of a unit, or of any instance of a template."""
        return self.silent[Dimension.CGROUP] | self._unit(unit) | self._container(container)

    def _unit(self, unit: str) -> int:
        return self.cgroups.get(unit, 0) | self.cgroups.get(template_of(unit), 0) if unit else 0

    @property
    def of_units(self) -> int:
        """Clauses that hold for some unit."""
        return _union(bits for name, bits in self.cgroups.items() if not name.startswith("/"))

    def _container(self, container: Container | None) -> int:
        if container is None:
            return 0
        if not container.known:
            return self.of_containers
        return _union(bits for selector, bits in self.containers.items() if selector.takes(container))

    def unsure(self, container: Container | None) -> bool:
        """True if the answer of `cgroup` depends on a name that is not known."""
        return container is not None and not container.known and bool(self.containers)

    def new_cgroup(self) -> int:
        """Clauses that could hold in a cgroup that user space has not checked."""
        return self.silent[Dimension.CGROUP] | self.of_containers

    def netns(self, addresses: Iterable[Address]) -> int:
        """Clauses for a namespace of this host with these addresses. The host's own has none that count."""
        found = _union(self._network(address) for address in addresses)
        return self.silent[Dimension.NETNS] | found

    def certain(self, uncertain: int) -> int:
        """The clauses that do not depend on any of the uncertain dimensions (bits of `Uncertain`)."""
        bits = self.everything
        if uncertain & Uncertain.EXE:
            bits &= ~self.open
        if uncertain & Uncertain.PATH:
            bits &= self.silent[Dimension.EXE]
        if uncertain & Uncertain.NETNS:
            bits &= self.silent[Dimension.NETNS]
        if uncertain & Uncertain.CGROUP:
            bits &= ~self.of_units
        if uncertain & Uncertain.CONTAINER:
            bits &= ~self.of_containers | self.any_container
        if uncertain & Uncertain.ANY_CONTAINER:
            bits &= ~self.any_container
        return bits

    def _network(self, address: Address) -> int:
        if not self.networks:
            return 0
        return next((self.networks[each] for each in prefixes_of(address) if each in self.networks), 0)


def index_clauses(clauses: Sequence[Clause], facts: HostFacts) -> Index:
    """Clause n is bit n. A name the host does not know holds with no value."""
    patterns, no_exe = _by_value(clauses, lambda clause: clause.exe)
    uids, no_uid = _by_value(clauses, lambda clause: clause.uids(facts))
    gids, no_gid = _by_value(clauses, lambda clause: clause.gids(facts))
    cgroups, no_cgroup = _by_value(clauses, lambda clause: clause.cgroups)
    containers, no_container = _by_value(clauses, lambda clause: clause.containers)
    no_cgroup &= no_container
    networks, no_network = _by_value(clauses, lambda clause: clause.networks)
    principals, _ = _by_value(clauses, lambda clause: () if clause.wide else (clause.principal,))
    excluded, _ = _by_value(
        clauses, lambda clause: () if clause.narrower_than_excluded else (clause.principal,)
    )
    owner_uids, _ = _by_value(clauses, lambda clause: clause.owner_uids(facts))
    owner_gids, _ = _by_value(clauses, lambda clause: clause.owner_gids(facts))
    owner_members, _ = _by_value(clauses, lambda clause: clause.owner_members(facts))
    confined = _union(1 << number for number, clause in enumerate(clauses) if clause.confined)
    patterns = _spelled_out(patterns, facts.realpaths)
    address_only = _union(1 << number for number, clause in enumerate(clauses) if not clause.needs_process)
    flat = flatten(networks.items())
    alone = flat
    if any(bits & ~address_only for bits in networks.values()):
        alone = flatten((network, bits & address_only) for network, bits in networks.items())
    return Index(
        silent=dict(zip(SPOKEN, (no_exe, no_uid, no_gid, no_cgroup, no_network), strict=True)),
        everything=(1 << len(clauses)) - 1,
        literals=_literals(patterns, facts.realpaths),
        directories={
            directory_of(pattern): bits for pattern, bits in _of_kind(patterns, ExeKind.DIRECTORY).items()
        },
        starred=_by_glob(_of_kind(patterns, ExeKind.STARRED)),
        globs=_of_kind(patterns, ExeKind.OPEN),
        uids=uids,
        gids=gids,
        cgroups=cgroups,
        containers=containers,
        networks=flat,
        sources=alone,
        principals=principals,
        excluded=excluded,
        owner_uids=owner_uids,
        owner_gids=owner_gids,
        owner_members=owner_members,
        subordinates=_of_ranges(Dimension.UID, owner_uids, facts)
        | _of_ranges(Dimension.GID, owner_members, facts),
        owned=_union(1 << number for number, clause in enumerate(clauses) if clause.by_owner),
        confined=confined,
        confined_exe=confined & ~no_exe,
    )


_Value = TypeVar("_Value", bound=Hashable)


def _by_value(
    clauses: Sequence[Clause], values_of: Callable[[Clause], Iterable[_Value] | None]
) -> tuple[dict[_Value, int], int]:
    """(the clauses that hold with each value, the clauses that do not constrain the dimension)."""
    table: dict[_Value, int] = {}
    silent = 0
    for number, clause in enumerate(clauses):
        values = values_of(clause)
        if values is None:
            silent |= 1 << number
        for value in values or ():
            table[value] = table.get(value, 0) | 1 << number
    return table, silent


def _spelled_out(patterns: Mapping[str, int], realpaths: Mapping[str, str]) -> dict[str, int]:
    """The patterns, and also the real paths behind symbolic links that they match: the kernel sees those."""
    spelled: dict[str, int] = {}
    for pattern, bits in patterns.items():
        for glob in spellings(pattern, realpaths):
            each = plain(glob) or glob
            spelled[each] = spelled.get(each, 0) | bits
    return spelled


def _of_ranges(dimension: Dimension, users: Mapping[int, int], facts: HostFacts) -> dict[SubordinateKey, int]:
    """For the subordinate ids of each user: the clauses that hold because of that user."""
    ranges = ((ids, bits) for uid, bits in users.items() for ids in facts.subordinates.get(uid, ()))
    return {SubordinateKey(dimension, *block): bits for block, bits in blocks_of(ranges).items()}


def _by_glob(patterns: Mapping[str, int]) -> dict[Starred, int]:
    globs: dict[Starred, int] = {}
    for pattern, bits in patterns.items():
        if glob := starred(pattern):
            globs[glob] = globs.get(glob, 0) | bits
    return globs


def _literals(patterns: Mapping[str, int], realpaths: Mapping[str, str]) -> dict[str, int]:
    literals = _of_kind(patterns, ExeKind.LITERAL)
    for pattern, bits in patterns.items():
        for end in linked(pattern, realpaths):
            literals[end] = literals.get(end, 0) | bits
    return literals


def _of_kind(patterns: Mapping[str, int], kind: ExeKind) -> dict[str, int]:
    return {pattern: bits for pattern, bits in patterns.items() if exe_kind(pattern) is kind}


def _union(sets: Iterable[int]) -> int:
    bits = 0
    for each in sets:
        bits |= each
    return bits
