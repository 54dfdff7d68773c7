"""Checks that need all files: names defined elsewhere, and limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from agent.model import Target
from agent.policy.document.collisions import check_collisions
from agent.policy.document.coverage import coverage_findings
from agent.policy.document.draft import Draft
from agent.policy.findings import Findings
from agent.policy.selectors import named_selectors
from agent.policy.tables.clauses import number_clauses
from agent.policy.tables.grants import PlannedGrant, planned_grants
from agent.policy.tables.shape import (
    CANDIDATES,
    LISTED_GROUPS,
    MAX_PORT_ENTRIES,
    MAX_SHAPES,
    MAX_TARGETS,
    SET_BITS,
)
from agent.policy.terms.paths import ExeKind, Shape, exe_kind, starred
from agent.policy.terms.ports import borders, pieces_of
from agent.policy.values import ANYONE, Entitlement, License, Place, Service
from agent.wording import did_you_mean

Grants = Mapping[Target, Sequence[PlannedGrant]]


def check_draft(draft: Draft) -> None:
    """Adds every mistake to the draft's findings."""
    services = [service for service in draft.services.values() if service]
    for license_ in draft.licenses:
        _check_license(draft, license_)
    _check_exclusions(draft)
    _check_enforcement(draft)
    grants = planned_grants(services, draft.licenses)
    if _check_ports(services, draft.findings):
        check_collisions(services, draft.findings)
    _check_clauses(draft, services)
    _check_grants(services, grants, draft.findings)
    _check_groups(draft, grants)
    _check_globs(draft, services)
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


def _check_ports(services: Iterable[Service], findings: Findings) -> bool:
    """False if there are too many ports. The check bounds later work, which handles each piece of a range."""
    declared = [(service, port) for service in services for port in service.ports]
    cut_at = borders(port for _, port in declared)
    entries = 0
    for service, port in declared:
        entries += (pieces := pieces_of(port, cut_at))
        if entries > MAX_PORT_ENTRIES:
            cut = f"{port} is cut into {pieces} by others, and there are " if pieces > 1 else ""
            findings.error(
                port.place,
                f"service '{service.name}': {cut}more than {MAX_PORT_ENTRIES} ports and ranges in all",
                f"{'narrow it, or ' if cut else ''}write neighboring ports as one range (30000-32767)",
            )
            return False
    return True


def _check_grants(services: list[Service], grants: Grants, findings: Findings) -> None:
    if len(grants) > MAX_TARGETS:
        findings.error(
            services[-1].place,
            f"{len(grants):,} targets (service × class), {MAX_TARGETS:,} are the most",
            "merge services: one may have many ports, at many addresses",
        )
    for target, planned in grants.items():
        if len(planned) > CANDIDATES:
            extra = planned[CANDIDATES]
            findings.error(
                extra.entitlement.place,
                f"target {target} has {len(planned)} grants, {CANDIDATES} are the most: "
                f"'{extra.license.id}/{extra.entitlement.id}' for '{extra.principal}' is one too many",
                "merge principals into one with several selectors, or limit `services` and `classes` of an "
                "entitlement",
            )


def _check_clauses(draft: Draft, services: list[Service]) -> None:
    principals = [principal for principal in draft.principals.values() if principal]
    clauses = number_clauses(principals, services, draft.licenses, draft.exclusions)
    if len(clauses) <= SET_BITS:
        return
    name = clauses[SET_BITS].principal
    places = {one.name: (f"principal '{one.name}'", one.place) for one in principals}
    places |= {one.owner_name: (f"service '{one.name}', owner", one.place) for one in services}
    what, place = places[name]
    draft.findings.error(
        place,
        f"{what}: {len(clauses) - 1:,} selectors in all, {SET_BITS - 1:,} are the most (one that is licensed "
        "and excluded counts twice)",
        "list several values in one selector ({unit: [a.service, b.service]}), or select by group or unit; "
        "all selectors of a principal with nothing but cidr count once",
    )


def _check_groups(draft: Draft, grants: Grants) -> None:
    """Limits the groups per target: of a consumer with very many groups, the kernel looks up only those that
    a target names."""
    for target, planned in grants.items():
        service = draft.services[target.service]
        names = [plan.principal for plan in planned]
        names += [each.principal for each in draft.exclusions if each.covers(target)]
        principals = [principal for name in names if (principal := draft.principals.get(name))]
        selectors = [selector for principal in principals for selector in principal.selectors]
        for what, spoken in (("its principals", selectors), ("its owners", service.owner if service else ())):
            groups = {group for selector in spoken for group in (*selector.groups, *selector.gids)}
            if service and len(groups) > LISTED_GROUPS:
                draft.findings.error(
                    service.place,
                    f"target {target}: {what} name {len(groups)} groups, {LISTED_GROUPS} are the most",
                    "select by fewer groups, or by user, unit or exe",
                )


def _check_globs(draft: Draft, services: Iterable[Service]) -> None:
    """Checks globs: whether the kernel has room for their shapes, and which ones it cannot match."""
    shapes: set[Shape] = set()
    for what, selector in named_selectors(filter(None, draft.principals.values()), services):
        for pattern in selector.exe:
            if exe_kind(pattern) is ExeKind.OPEN:
                draft.findings.warn(
                    selector.place,
                    f"{what}: the kernel cannot match '{pattern}'. The first connect() of a program "
                    "may come before its name is known, and is then denied if the target enforces",
                    "write one * in one component (/opt/*/bin/x, /opt/jdk-*/bin/x), or on_unresolved: allow",
                )
            elif exe_kind(pattern) is ExeKind.STARRED and (glob := starred(pattern)):
                shapes.add(glob.shape)
                if len(shapes) == MAX_SHAPES + 1:
                    draft.findings.error(
                        selector.place,
                        f"{what}: '{pattern}' is one too many: globs with one * may differ in {MAX_SHAPES} "
                        "ways: in which component has it, and in the number of bytes before and after it",
                        "write directories instead (/dir/*), list paths, or select by unit",
                    )


def _repeated(names: tuple[str, ...]) -> list[str]:
    return [name for name, count in Counter(names).items() if count > 1]
