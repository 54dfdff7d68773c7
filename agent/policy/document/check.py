"""Checks that need all files: names defined elsewhere, and what no license covers."""

from __future__ import annotations

from collections import Counter
from datetime import UTC, datetime

from agent.policy.document.collisions import check_collisions
from agent.policy.document.coverage import coverage_findings
from agent.policy.document.draft import Draft
from agent.policy.document.limits import check_limits, check_ports
from agent.policy.values import ANYONE, Entitlement, License, Place, Service
from agent.wording import did_you_mean


def check_draft(draft: Draft, now: datetime | None = None) -> None:
    """Adds every mistake to the draft's findings. `now`: what has ended by then takes no room from what can
    grant. None: the wall clock."""
    now = now or datetime.now(UTC)
    services = [service for service in draft.services.values() if service]
    for license_ in draft.licenses:
        _check_license(draft, license_)
    _check_exclusions(draft)
    _check_enforcement(draft)
    if check_ports(services, draft.findings):
        check_collisions(services, draft.findings)
    check_limits(draft, services, now)
    principals = [principal for principal in draft.principals.values() if principal]
    draft.findings.warnings += coverage_findings(services, principals, draft.licenses, draft.exclusions)


def _check_license(draft: Draft, license_: License) -> None:
    if license_.product not in draft.products:
        draft.findings.error(
            license_.place,
            f"license '{license_.id}' is for product '{license_.product}', which no service has",
            did_you_mean(license_.product, draft.products, "give a service this product"),
        )
    seen: dict[str, Place] = {}
    for entitlement in license_.entitlements:
        before = seen.setdefault(entitlement.id, entitlement.place)
        if before is not entitlement.place:
            draft.findings.error(
                entitlement.place,
                f"license '{license_.id}': entitlement '{entitlement.id}' is already defined at {before}",
                "rename or remove one",
            )
        _check_entitlement(draft, license_, entitlement)


def _check_entitlement(draft: Draft, license_: License, entitlement: Entitlement) -> None:
    what = f"license '{license_.id}', entitlement '{entitlement.id}'"
    for principal in entitlement.principals:
        _check_principal(draft, principal, what, entitlement.place)
    for value in _repeated(entitlement.principals):
        draft.findings.error(entitlement.place, f"{what}: principal '{value}' is listed twice", "remove one")
    for name in entitlement.services or ():
        service = draft.services.get(name)
        if not _check_service(draft, name, what, entitlement.place) or service is None:
            continue
        if service.product != license_.product:
            draft.findings.error(
                entitlement.place,
                f"{what}: service '{name}' is of product '{service.product}', the license is for "
                f"'{license_.product}'",
                f"license '{service.product}', or leave the service out",
            )
    window = license_.window.narrowed_by(entitlement.window)
    if window.starts_at and window.ends_at and window.ends_at <= window.starts_at:
        draft.findings.warn(
            entitlement.place,
            f"{what}: its time window is outside the license's, so it is never valid",
            "correct it",
        )


def _check_exclusions(draft: Draft) -> None:
    for exclusion in draft.exclusions:
        _check_principal(draft, exclusion.principal, "restriction", exclusion.place)
        if not _check_service(draft, exclusion.service, "restriction", exclusion.place):
            continue
        service = draft.services[exclusion.service]
        if service and exclusion.port_class:
            _check_class(draft, service, exclusion.port_class, "restriction", exclusion.place)


def _check_enforcement(draft: Draft) -> None:
    for name, (_, place) in draft.enforcement.items():
        service_name, slash, port_class = name.partition("/")
        if name == "default" or not _check_service(draft, service_name, "enforcement", place):
            continue
        service = draft.services[service_name]
        if service and slash:
            _check_class(draft, service, port_class, "enforcement", place)


def _check_principal(draft: Draft, name: str, what: str, place: Place) -> None:
    if name != ANYONE and name not in draft.principals:
        draft.findings.error(
            place,
            f"{what} names principal '{name}', which is not defined",
            did_you_mean(name, [*draft.principals, ANYONE], "define it under principals"),
        )


def _check_service(draft: Draft, name: str, what: str, place: Place) -> bool:
    if name in draft.services:
        return True
    draft.findings.error(
        place,
        f"{what} names service '{name}', which is not defined",
        did_you_mean(name, draft.services, "define it under services"),
    )
    return False


def _check_class(draft: Draft, service: Service, port_class: str, what: str, place: Place) -> None:
    if port_class not in list(service.classes):
        draft.findings.error(
            place,
            f"{what}: service '{service.name}' has no {port_class} port",
            f"it has {', '.join(service.classes)}",
        )


def _repeated(names: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
