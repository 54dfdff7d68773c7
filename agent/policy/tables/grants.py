"""The grants that a policy makes: target × principal × entitlement, in policy order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from agent.model import Target
from agent.policy.tables.shape import CANDIDATES
from agent.policy.values import Entitlement, License, Service, Window


@dataclass(frozen=True, slots=True)
class PlannedGrant:
    """One principal of one entitlement, on one target."""

    license: License
    entitlement: Entitlement
    principal: str
    target: Target

    @property
    def name(self) -> str:
        """license/entitlement/principal@service/class, the format of agent/policy/tables/ids.py."""
        return f"{self.license.id}/{self.entitlement.id}/{self.principal}@{self.target}"

    @property
    def window(self) -> Window:
        return self.license.window.narrowed_by(self.entitlement.window)

    def only_denies(self, now: datetime) -> bool:
        """True if it grants nothing, now or later."""
        return self.license.state is not None or self.window.has_ended(now)


def planned_grants(
    services: Iterable[Service], licenses: Iterable[License]
) -> dict[Target, list[PlannedGrant]]:
    """All targets of the services, each with its grants in the order in which they are tried."""
    by_product: dict[str, list[Service]] = {}
    grants: dict[Target, list[PlannedGrant]] = {}
    for service in services:
        by_product.setdefault(service.product, []).append(service)
        for port_class in service.classes:
            grants[Target(service.name, port_class)] = []
    for license_ in licenses:
        for entitlement in license_.entitlements:
            for target in covered_targets(by_product.get(license_.product, ()), entitlement):
                for principal in entitlement.principals:
                    grants[target].append(PlannedGrant(license_, entitlement, principal, target))
    return grants


def fitting(planned: Sequence[PlannedGrant], now: datetime) -> list[PlannedGrant]:
    """The grants of one target that the kernel has room for, in policy order. The last of those that only
    deny give way first."""
    ranked = sorted(range(len(planned)), key=lambda place: planned[place].only_denies(now))
    return [planned[place] for place in sorted(ranked[:CANDIDATES])]


def able_to_grant(licenses: Iterable[License], now: datetime) -> list[License]:
    """The licenses without those, and those entitlements, that only deny."""
    found = []
    for one in licenses:
        lasting = tuple(
            each for each in one.entitlements if not one.window.narrowed_by(each.window).has_ended(now)
        )
        if one.state is None and lasting:
            found.append(one if lasting == one.entitlements else replace(one, entitlements=lasting))
    return found


def next_end(licenses: Iterable[License], now: datetime) -> datetime | None:
    """When the next license, or entitlement, that can grant ends; None: none does."""
    windows = (
        one.window.narrowed_by(each.window)
        for one in licenses
        if one.state is None
        for each in one.entitlements
    )
    return min((each.ends_at for each in windows if each.ends_at and each.ends_at > now), default=None)


def licensed_principals(licenses: Iterable[License]) -> set[str]:
    """Names of all principals that some license names."""
    return {name for one in licenses for each in one.entitlements for name in each.principals}


def covered_targets(services: Iterable[Service], entitlement: Entitlement) -> Iterator[Target]:
    """The targets of an entitlement, each once. `services`: those of its license's product."""
    names, classes = entitlement.services, entitlement.classes
    for service in services:
        if names is None or service.name in names:
            for port_class in service.classes:
                if classes is None or port_class in classes:
                    yield Target(service.name, port_class)
