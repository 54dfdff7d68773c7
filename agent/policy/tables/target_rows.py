"""The rows of targets: what the kernel looks at to judge an attempt, and who may own the port."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from agent.model import HostFacts, Target
from agent.policy.tables.container_homes import container_homes
from agent.policy.tables.grants import PlannedGrant, fitting, planned_grants
from agent.policy.tables.ids import Ids
from agent.policy.tables.index import Index
from agent.policy.tables.named_sets import NamedSets
from agent.policy.tables.sets import Sets
from agent.policy.tables.shape import NO_BOOT_NS, Candidate, Grant, SetId, TargetRow
from agent.policy.tables.windows import Windows
from agent.policy.values import Policy, Service


@dataclass(frozen=True, slots=True)
class TargetRows:
    rows: dict[int, TargetRow]
    owners: dict[int, TargetRow]
    plans: dict[Target, list[PlannedGrant]]
    """The rule of each candidate of a row."""
    grants: dict[int, Grant]
    """By grant id."""


def target_rows(policy: Policy, facts: HostFacts, ids: Ids, now: datetime, named: NamedSets) -> TargetRows:
    """Adds the sets of the rows to those of `named`."""
    planned = planned_grants(policy.services.values(), policy.licenses)
    plans = {target: fitting(more, now) for target, more in planned.items()}
    grants: dict[int, Grant] = {}
    rows = _rows(policy, facts, ids, named.index, named.sets, plans, grants)
    return TargetRows(rows, _owner_rows(policy, rows, named.index, named.sets), plans, grants)


def _rows(
    policy: Policy,
    facts: HostFacts,
    ids: Ids,
    index: Index,
    sets: Sets,
    plans: Mapping[Target, Sequence[PlannedGrant]],
    grants: dict[int, Grant],
) -> dict[int, TargetRow]:
    """Adds what it gives a number to `grants`."""
    rows = {}
    windows = Windows(facts)
    for target, planned in plans.items():
        candidates = []
        for plan in planned:
            number = 0
            if plan.license.is_verified:
                number = ids.grant(plan.name)
                grants[number] = _named(number, plan)
            principal = sets.id_of(index.principals.get(plan.principal, 0))
            state = plan.license.state or 0
            candidates.append(Candidate(number, principal, state, *windows.boot_ns(plan.window)))
        row_id = ids.target(target)
        rows[row_id] = TargetRow(
            id=row_id,
            target=target,
            mode=policy.mode_of(target),
            unresolved=policy.services[target.service].unresolved(target.port_class),
            clock_synced=facts.clock_synced,
            drops=policy.services[target.service].drops,
            excluded=sets.id_of(_excluded(policy, target, index)),
            home_netns=_home(policy.services[target.service], facts),
            candidates=tuple(candidates),
        )
        rows[row_id] = _with_groups(rows[row_id], index, sets)
    return rows


def _named(number: int, plan: PlannedGrant) -> Grant:
    """The same for each document of one license: the number stands for these names, not for a file."""
    return Grant(number, plan.license.id, plan.entitlement.id, plan.principal, plan.target)


def _with_groups(row: TargetRow, index: Index, sets: Sets) -> TargetRow:
    spoken = sets[row.excluded]
    for candidate in row.candidates:
        spoken |= sets[candidate.principal]
    gids = sorted(gid for gid, bits in index.gids.items() if bits & spoken)
    return replace(row, gid_list=sets.list_of(gids) if gids else 0)


def _owner_rows(
    policy: Policy, rows: Mapping[int, TargetRow], index: Index, sets: Sets
) -> dict[int, TargetRow]:
    owners = {}
    for number, row in rows.items():
        service = policy.services[row.target.service]
        if service.owner:
            may = Candidate(
                0, sets.id_of(index.principals.get(service.owner_name, 0)), 0, 0, *[NO_BOOT_NS] * 2
            )
            owners[number] = _with_groups(
                replace(row, excluded=SetId.EMPTY, candidates=(may,), clock_synced=True), index, sets
            )
    return owners


def _excluded(policy: Policy, target: Target, index: Index) -> int:
    bits = 0
    for exclusion in policy.exclusions:
        if exclusion.covers(target):
            bits |= index.excluded.get(exclusion.principal, 0)
    return bits


def _home(service: Service, facts: HostFacts) -> int:
    """The home namespace of a target. A target has one: of several containers, the first."""
    homes = container_homes(service, facts)
    return homes[0] if homes else facts.host_netns
