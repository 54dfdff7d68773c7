"""Selectors as clauses: conjunctions that own one bit each in the kernel's sets.

A clause lists, for each dimension, the values with which it holds; None: it does not speak of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from agent.model import HostFacts, Network
from agent.policy.paths import ExeKind, exe_kind
from agent.policy.values import ANYONE, ContainerSelector, Principal, Selector


@dataclass(frozen=True, slots=True)
class Clause:
    """Several selectors share a clause only if nothing but `networks` is set in each."""

    principal: str
    selectors: tuple[Selector, ...]
    exe: tuple[str, ...] | None = None
    """Literal paths with /dir/* patterns, or with other globs, never all three: whether the directory
    alone decides is a property of the clause."""

    @property
    def networks(self) -> tuple[Network, ...] | None:
        found = tuple(network for selector in self.selectors for network in selector.networks)
        return found or None

    @property
    def cgroups(self) -> tuple[str, ...] | None:
        """Names of units, and paths (which start with a slash)."""
        names = (*self.selectors[0].units, *self.selectors[0].cgroups) if self.selectors else ()
        return names or None

    @property
    def containers(self) -> tuple[ContainerSelector, ...] | None:
        """Never beside `cgroups`: a container is a cgroup, too."""
        return (self.selectors[0].containers or None) if self.selectors else None

    def uids(self, facts: HostFacts) -> frozenset[int] | None:
        return self._ids("users", "uids", facts.users)

    def gids(self, facts: HostFacts) -> frozenset[int] | None:
        return self._ids("groups", "gids", facts.groups)

    def _ids(self, names: str, numbers: str, known: Mapping[str, int]) -> frozenset[int] | None:
        if not self.selectors:
            return None
        named: tuple[str, ...] = getattr(self.selectors[0], names)
        numbered: tuple[int, ...] = getattr(self.selectors[0], numbers)
        if not named and not numbered:
            return None
        return frozenset((*numbered, *(known[name] for name in named if name in known)))

    @property
    def needs_process(self) -> bool:
        """True if an address alone cannot satisfy it."""
        return any(not selector.only_networks for selector in self.selectors)


def clauses_of(principal: Principal) -> list[Clause]:
    """A clause for each selector; all that are nothing but CIDRs share the first one's."""
    addresses = tuple(selector for selector in principal.selectors if selector.only_networks)
    clauses: list[Clause] = []
    for selector in principal.selectors:
        if not selector.only_networks:
            clauses.extend(Clause(principal.name, (selector,), exe) for exe in _split(selector.exe))
        elif selector is addresses[0]:
            clauses.append(Clause(principal.name, addresses))
    return clauses


def number_clauses(principals: Iterable[Principal]) -> list[Clause]:
    """Clause n owns bit n. The first is that of `anyone`, which speaks of nothing."""
    return [Clause(ANYONE, ()), *(clause for principal in principals for clause in clauses_of(principal))]


def _split(exe: tuple[str, ...]) -> list[tuple[str, ...] | None]:
    """Directory patterns apart from open globs: the former stay certain when a name is not known."""
    if not exe:
        return [None]
    certain = tuple(pattern for pattern in exe if exe_kind(pattern) is not ExeKind.OPEN)
    unsure = tuple(pattern for pattern in exe if exe_kind(pattern) is ExeKind.OPEN)
    return [part for part in (certain, unsure) if part]
