"""Warnings about what no license covers, and about principals that nothing names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from agent.policy.tables.grants import licensed_principals, planned_grants
from agent.policy.values import Exclusion, Finding, License, Principal, Service


def coverage_findings(
    services: Sequence[Service],
    principals: Iterable[Principal],
    licenses: Sequence[License],
    exclusions: Iterable[Exclusion],
) -> list[Finding]:
    """In the order of services, then of principals. A license that is not verified covers nothing."""
    verified = [license_ for license_ in licenses if license_.is_verified]
    return [*_uncovered(services, verified), *_unused(principals, verified, exclusions)]


def _uncovered(services: Sequence[Service], licenses: Sequence[License]) -> Iterable[Finding]:
    licensed = {license_.product for license_ in licenses}
    by_name = {service.name: service for service in services}
    for service in services:
        if service.product not in licensed:
            yield Finding(
                service.place,
                f"service '{service.name}': no license for product '{service.product}': all are denied",
                "add a license for it",
            )
    for target, planned in planned_grants(services, licenses).items():
        service = by_name[target.service]
        if service.product in licensed and not planned:
            yield Finding(
                service.place,
                f"no entitlement covers {target}, so every consumer is denied",
                f"add an entitlement with the class {target.port_class}",
            )


def _unused(
    principals: Iterable[Principal], licenses: Sequence[License], exclusions: Iterable[Exclusion]
) -> Iterable[Finding]:
    used = licensed_principals(licenses) | {exclusion.principal for exclusion in exclusions}
    for principal in principals:
        if principal.name not in used:
            yield Finding(
                principal.place,
                f"principal '{principal.name}' is not used by any license or restriction",
                "name it in an entitlement, or remove it",
            )
