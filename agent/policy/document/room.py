"""Room in the kernel's tables, as licenses take it one after the other. What only denies leaves room to what
can grant, whichever was first."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Protocol

from agent.model import Target
from agent.policy.tables.clauses import number_clauses
from agent.policy.tables.grants import able_to_grant, covered_targets, planned_grants
from agent.policy.tables.shape import CANDIDATES, LISTED_GROUPS, SET_BITS
from agent.policy.values import License, Policy, Service


@dataclass(frozen=True, slots=True)
class Parts:
    """What of a license can grant, and what of it only denies. None: nothing."""

    able: License | None
    ended: License | None


def parts_of(license_: License, now: datetime) -> Parts:
    able = next(iter(able_to_grant([license_], now)), None)
    lasting = able.entitlements if able else ()
    rest = tuple(each for each in license_.entitlements if each not in lasting)
    return Parts(able, replace(license_, entitlements=rest) if rest or not able else None)


@dataclass(slots=True)
class _Taken:
    licenses: list[License] = field(default_factory=list)
    grants: Counter[Target] = field(default_factory=Counter)
    principals: defaultdict[Target, set[str]] = field(default_factory=lambda: defaultdict(set))


class Tables(Protocol):
    """Limits that depend on the host."""

    def misfit(self, licenses: Sequence[License]) -> str:
        """Why the policy does not compile with these licenses; "" if it does."""


class Room:
    """What the licenses of one policy have taken. `tables`: asked for each license that can grant."""

    def __init__(self, policy: Policy, tables: Tables | None = None) -> None:
        self._policy = policy
        self._tables = tables
        self._excluded = frozenset(one.principal for one in policy.exclusions)
        self._by_product: defaultdict[str, list[Service]] = defaultdict(list)
        for service in policy.services.values():
            self._by_product[service.product].append(service)
        self._able, self._ended = _Taken(), _Taken()

    def services(self, product: str) -> list[Service]:
        return self._by_product[product]

    def adds_clause(self, principal: str) -> bool:
        """True if one more license for this principal needs room in the sets that there is no use for yet."""
        return self._adds_clause(principal, [*self._able.licenses, *self._ended.licenses])

    def misfit(self, parts: Parts) -> str:
        """Why a license has no room; "" if it has. Its part that can grant decides, if there is one."""
        if parts.able is None:
            return self.misfit_of_ended(parts)
        why = self._misfit(parts.able, [self._able])
        if why or self._tables is None:
            return why
        return self._tables.misfit([*self._able.licenses, parts.able])

    def misfit_of_ended(self, parts: Parts) -> str:
        """The same of its part that only denies."""
        return self._misfit(parts.ended, [self._ended, self._able]) if parts.ended else ""

    def take(self, parts: Parts) -> None:
        """Counts a license that has room, or that was checked with its policy."""
        for part, taken in ((parts.able, self._able), (parts.ended, self._ended)):
            if part:
                taken.licenses.append(part)
                taken.grants.update(self._counts(part))
                for target, principals in self._planned(part):
                    taken.principals[target] |= principals

    def _adds_clause(self, principal: str, licenses: Iterable[License]) -> bool:
        if principal not in self._excluded:
            return False
        return not any(principal in each.principals for one in licenses for each in one.entitlements)

    def _misfit(self, part: License, beside: list[_Taken]) -> str:
        """`beside`: what leaves it no selectors and groups. The first of them leaves it no grants either."""
        licenses = [one for taken in beside for one in taken.licenses]
        names = {name for each in part.entitlements for name in each.principals}
        if any(self._adds_clause(name, licenses) for name in names):
            named = self._policy.principals.values(), self._policy.services.values()
            clauses = number_clauses(*named, [*licenses, part], self._policy.exclusions)
            if len(clauses) > SET_BITS:
                return f"{len(clauses) - 1:,} selectors in all, {SET_BITS - 1:,} are the most"
        grants = beside[0].grants
        for target, more in self._counts(part).items():
            if grants[target] + more > CANDIDATES:
                return f"target {target} would have {grants[target] + more} grants, {CANDIDATES} are the most"
        for target, principals in self._planned(part):
            spoken = principals.union(*(taken.principals[target] for taken in beside))
            if self._too_many_groups(target, spoken):
                return f"target {target}: its principals would name more than {LISTED_GROUPS} groups"
        return ""

    def _too_many_groups(self, target: Target, names: Iterable[str]) -> bool:
        """True if these principals name too many, with those that are excluded."""
        spoken = {*names, *(one.principal for one in self._policy.exclusions if one.covers(target))}
        principals = [self._policy.principals[name] for name in spoken if name in self._policy.principals]
        groups = {g for one in principals for each in one.selectors for g in (*each.groups, *each.gids)}
        return len(groups) > LISTED_GROUPS

    def _planned(self, license_: License) -> Iterator[tuple[Target, set[str]]]:
        """Principals by target. Call this only for a license that is known to fit, or that was checked."""
        planned = planned_grants(self._by_product[license_.product], [license_])
        return ((target, {grant.principal for grant in more}) for target, more in planned.items() if more)

    def _counts(self, license_: License) -> Counter[Target]:
        """Number of candidates by target, without making them: a document of 64 KiB may name millions. It
        ends with the first target that has too many."""
        counts: Counter[Target] = Counter()
        for entitlement in license_.entitlements:
            for target in covered_targets(self._by_product[license_.product], entitlement):
                counts[target] += len(entitlement.principals)
                if counts[target] > CANDIDATES:
                    return counts
        return counts
