"""Selectors as clauses: each clause is a conjunction and owns one bit in the kernel's sets.

For each dimension, a clause lists the values with which it holds. None: the clause does not constrain that
dimension.
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
    """One or several selectors. Selectors share a clause only if nothing but `networks` is set in each."""

    principal: str
    selectors: tuple[Selector, ...]
    exe: tuple[str, ...] | None = None
    """Either patterns that the kernel matches by itself, or globs that need the name from user space. Never
    both, so that being in doubt is a property of the clause."""
    wide: bool = False
    """Used in an exclusion: it also holds in containers, and in user namespaces that its users own."""

    @property
    def confined(self) -> bool:
        """True if it is only about processes outside containers."""
        return not self.wide and any(selector.confined for selector in self.selectors)

    @property
    def narrower_than_excluded(self) -> bool:
        """True if it matches less in a license than in an exclusion."""
        return not self.wide and any(each.confined or each.accounts for each in self.selectors)

    @property
    def by_owner(self) -> bool:
        """True if it also holds for processes in a user namespace of the users it names."""
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
        """Never set together with `cgroups`, because a container is also a cgroup."""
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
        """Owners of user namespaces for whose processes it holds."""
        return (self.uids(facts) or frozenset()) if self.wide else frozenset()

    def owner_gids(self, facts: HostFacts) -> frozenset[int]:
        return (self.gids(facts) or frozenset()) if self.wide else frozenset()

    def owner_members(self, facts: HostFacts) -> frozenset[int]:
        """The same for members of its groups, by uid."""
        return frozenset().union(*(facts.members.get(gid, ()) for gid in self.owner_gids(facts)))


def clauses_of(principal: Principal) -> list[Clause]:
    """A clause for each selector. All selectors with nothing but CIDRs share the clause of the first one."""
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
    """Numbers all clauses. The first is that of `anyone`, which has no condition. A selector that matches
    more in an exclusion than in a license has two clauses. The owners of a service form a principal whose
    name no other can have."""
    licensed = licensed_principals(one for one in licenses if one.is_verified)
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
    """Separates open globs from the rest, which stays certain when a name is not known."""
    if not exe:
        return [None]
    certain = tuple(pattern for pattern in exe if exe_kind(pattern) is not ExeKind.OPEN)
    unsure = tuple(pattern for pattern in exe if exe_kind(pattern) is ExeKind.OPEN)
    return [part for part in (certain, unsure) if part]
