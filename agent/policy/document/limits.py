"""Checks of what the kernel's tables have room for. What can only deny takes no room from what can grant."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime

from agent.model import Target
from agent.policy.document.draft import Draft
from agent.policy.findings import Findings
from agent.policy.tables.clauses import number_clauses
from agent.policy.tables.grants import PlannedGrant, able_to_grant, fitting, planned_grants
from agent.policy.tables.selectors import named_selectors
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
from agent.policy.values import License, Service

Grants = Mapping[Target, Sequence[PlannedGrant]]


def check_limits(draft: Draft, services: list[Service], now: datetime) -> None:
    """Adds an error for each limit that is exceeded by what can grant at that time, or later. Adds a warning
    for what can only deny and has no room."""
    lasting = able_to_grant(draft.licenses, now)
    granting, grants = planned_grants(services, lasting), planned_grants(services, draft.licenses)
    _check_globs(draft, services)
    _check_clauses(draft, services, lasting, draft.findings)
    _check_groups(draft, granting, draft.findings)
    _check_grants(services, granting, draft.findings)
    _check_left_out(grants, draft.findings, now)
    if lasting == draft.licenses:
        return
    beyond = Findings()
    _check_clauses(draft, services, draft.licenses, beyond)
    _check_groups(draft, grants, beyond)
    for license_ in draft.licenses if beyond.errors else ():
        if license_ not in lasting:
            draft.findings.warn(
                license_.place,
                f"license '{license_.id}' grants nothing now, at least in part, and that part is left out. "
                f"With it: {beyond.errors[0].reason}",
                "remove it",
            )


def check_ports(services: Iterable[Service], findings: Findings) -> bool:
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


def _check_left_out(grants: Grants, findings: Findings, now: datetime) -> None:
    for target, planned in grants.items():
        kept = fitting(planned, now)
        for plan in planned:
            if plan not in kept and plan.only_denies(now):
                findings.warn(
                    plan.entitlement.place,
                    f"target {target} has {len(planned)} grants, {CANDIDATES} are the most: "
                    f"'{plan.license.id}/{plan.entitlement.id}' for '{plan.principal}' grants nothing now "
                    "and is left out",
                    "remove it",
                )


def _check_clauses(
    draft: Draft, services: list[Service], licenses: Iterable[License], findings: Findings
) -> None:
    principals = [principal for principal in draft.principals.values() if principal]
    clauses = number_clauses(principals, services, licenses, draft.exclusions)
    if len(clauses) <= SET_BITS:
        return
    name = clauses[SET_BITS].principal
    places = {one.name: (f"principal '{one.name}'", one.place) for one in principals}
    places |= {one.owner_name: (f"service '{one.name}', owner", one.place) for one in services}
    what, place = places[name]
    findings.error(
        place,
        f"{what}: {len(clauses) - 1:,} selectors in all, {SET_BITS - 1:,} are the most (one that is licensed "
        "and excluded counts twice)",
        "list several values in one selector ({unit: [a.service, b.service]}), or select by group or unit; "
        "all selectors of a principal with nothing but cidr count once",
    )


def _check_groups(draft: Draft, grants: Grants, findings: Findings) -> None:
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
                findings.error(
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
