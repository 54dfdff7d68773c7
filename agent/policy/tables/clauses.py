"""Selectors as clauses: conjunctions that own one bit each in the kernel's sets.

A clause lists, for each dimension, the values with which it holds; None: it does not speak of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.model import HostFacts, Network
from agent.policy.tables.grants import licensed_principals
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.terms.paths import ExeKind, exe_kind
from agent.policy.values import ANYONE, Exclusion, License, Policy, Principal, Selector, Service


@dataclass(frozen=True, slots=True)
class Clause:
    """Several selectors share a clause only if nothing but `networks` is set in each."""

    principal: str
    selectors: tuple[Selector, ...]
    exe: tuple[str, ...] | None = None
    """What the kernel decides by itself, or globs for which it takes the name, never both: whether it can
    be in doubt is a property of the clause."""
    wide: bool = False
    """Of an exclusion: it holds in containers, too, and for whoever is in a user namespace of its users."""

    @property
    def confined(self) -> bool:
        """It speaks of processes outside containers."""
        return not self.wide and any(selector.confined for selector in self.selectors)

    @property
    def narrower_than_excluded(self) -> bool:
        """It means less in a license than in an exclusion."""
        return not self.wide and any(each.confined or each.accounts for each in self.selectors)

    @property
    def by_owner(self) -> bool:
        """It also holds for whoever is in a user namespace of those it names."""
        return self.wide and any(each.accounts for each in self.selectors)

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

    def owner_uids(self, facts: HostFacts) -> frozenset[int]:
        """Owners of user namespaces with which it holds."""
        return (self.uids(facts) or frozenset()) if self.wide else frozenset()

    def owner_gids(self, facts: HostFacts) -> frozenset[int]:
        return (self.gids(facts) or frozenset()) if self.wide else frozenset()

    def owner_members(self, facts: HostFacts) -> frozenset[int]:
        """The same by uid, of members of its groups."""
        return frozenset().union(*(facts.members.get(gid, ()) for gid in self.owner_gids(facts)))


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


def policy_clauses(policy: Policy) -> list[Clause]:
    """Clause n owns bit n."""
    return number_clauses(
        policy.principals.values(), policy.services.values(), policy.licenses, policy.exclusions
    )


def number_clauses(
    principals: Iterable[Principal],
    services: Iterable[Service],
    licenses: Iterable[License],
    exclusions: Iterable[Exclusion],
) -> list[Clause]:
    """The first is that of `anyone`, which speaks of nothing. What is wider in an exclusion than in a license
    has a clause for each. The owners of a service are a principal with a name that no other can have."""
    licensed = licensed_principals(licenses)
    excluded = {each.principal for each in exclusions}
    clauses = [Clause(ANYONE, ())]
    for principal in principals:
        clauses += _with_twins(principal, principal.name in excluded, principal.name in licensed)
    for service in services:
        if service.owner:
            clauses += clauses_of(Principal(service.owner_name, service.place, service.owners_there))
    return clauses


def _with_twins(principal: Principal, excluded: bool, licensed: bool) -> Iterable[Clause]:
    for clause in clauses_of(principal):
        differs = excluded and clause.narrower_than_excluded
        if licensed or not differs:
            yield clause
        if differs:
            yield replace(clause, wide=True)


def _split(exe: tuple[str, ...]) -> list[tuple[str, ...] | None]:
    """Open globs apart: all else stays certain when a name is not known."""
    if not exe:
        return [None]
    certain = tuple(pattern for pattern in exe if exe_kind(pattern) is not ExeKind.OPEN)
    unsure = tuple(pattern for pattern in exe if exe_kind(pattern) is ExeKind.OPEN)
    return [part for part in (certain, unsure) if part]
