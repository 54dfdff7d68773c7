"""Policy → Tables: the maps for the kernel, and what the daemon needs to add names that appear later.

`shape` documents the tables, `clauses` the clauses, and `index` which clause holds with which value.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from agent.errors import PolicyErrors
from agent.model import (
    Address,
    Container,
    HostFacts,
    Target,
)
from agent.policy.tables.claims import port_numbers, target_keys
from agent.policy.tables.clauses import Clause, policy_clauses
from agent.policy.tables.container_homes import container_homes
from agent.policy.tables.grants import PlannedGrant, able_to_grant, fitting, planned_grants
from agent.policy.tables.host_warnings import host_warnings
from agent.policy.tables.ids import Ids
from agent.policy.tables.index import Index, index_clauses
from agent.policy.tables.members import cgroup_members, host_root, member_flags, other_members
from agent.policy.tables.sets import Sets
from agent.policy.tables.shape import (
    NO_BOOT_NS,
    Candidate,
    Dimension,
    Grant,
    SetId,
    Tables,
    TargetRow,
    empty_tables,
)
from agent.policy.tables.windows import Windows, moment
from agent.policy.terms.cgroups import NOTHING_KNOWN, Ground, ground_of
from agent.policy.values import Finding, Policy, Service


@dataclass(frozen=True, slots=True)
class Compiled:
    tables: Tables
    warnings: tuple[Finding, ...] = ()
    """Of the policy itself, and of what overlaps on this host."""
    of_host: tuple[Finding, ...] = ()
    """What the policy names and this host did not have then."""
    clauses: tuple[Clause, ...] = ()
    index: Index = field(default_factory=lambda: index_clauses((), HostFacts(0, ())))
    grants: Mapping[int, PlannedGrant] = field(default_factory=dict)
    """By grant id: the rule that made the grant, with its place."""
    plans: Mapping[Target, Sequence[PlannedGrant]] = field(default_factory=dict)
    """The rule of each candidate of a target's row."""


def compile_policy(
    policy: Policy | None, facts: HostFacts, ids: Ids, now: datetime | None = None
) -> Compiled:
    """The same arguments give the same tables. New targets and grants get numbers in `ids`. `now`: license
    time; None: when the facts were gathered.

    Raises PolicyErrors if the result is too large for the kernel's maps, also without the licenses that only
    deny.
    """
    if policy is None:
        return Compiled(empty_tables(facts.hash_seed))
    now = now or moment(facts.boot_offset_ns + facts.gathered_boot_ns)
    try:
        return _compiled(policy, facts, ids, now)
    except PolicyErrors:
        lasting = able_to_grant(policy.licenses, now)
        if lasting == list(policy.licenses):
            raise
        return _compiled(replace(policy, licenses=tuple(lasting)), facts, ids, now)


def _compiled(policy: Policy, facts: HostFacts, ids: Ids, now: datetime) -> Compiled:
    clauses = policy_clauses(policy)
    index = index_clauses(clauses, facts)
    sets = Sets(index)
    members = {key: sets.id_of(bits) for key, bits in other_members(index, facts)}
    for key, bits, flags in cgroup_members(index, facts):
        members[key] = sets.id_of(bits) | flags
    members.update(host_root(facts))
    members.update(((Dimension.EXE_SHAPE, n), shape.word) for n, shape in enumerate(index.shapes))
    sources = {network: sets.id_of(bits | index.anyone) for network, bits in index.sources.items()}
    subordinates = {key: sets.id_of(bits) for key, bits in index.subordinates.items()}
    planned = planned_grants(policy.services.values(), policy.licenses)
    plans = {target: fitting(more, now) for target, more in planned.items()}
    grants: dict[int, PlannedGrant] = {}
    rows = _rows(policy, facts, ids, index, sets, plans, grants)
    numbers = port_numbers(policy)
    targets, overlaps = target_keys(policy, facts, ids, numbers)
    owners = _owner_rows(policy, rows, index, sets)
    sets.check(policy)
    tables = Tables(
        seed=facts.hash_seed,
        targets=targets,
        rows=rows,
        members=members,
        sources=sources,
        sets=sets.all,
        grants={
            number: Grant(number, plan.license.id, plan.entitlement.id, plan.principal, plan.target)
            for number, plan in grants.items()
        },
        owners=owners,
        elsewhere=frozenset((facts.host_netns, address) for address in facts.elsewhere),
        ground=ground_of(facts),
        subordinates=subordinates,
        numbers=numbers,
    )
    of_host = tuple(host_warnings(policy, facts))
    return Compiled(tables, (*policy.warnings, *overlaps), of_host, tuple(clauses), index, grants, plans)


def member_for_executable(compiled: Compiled, path: str) -> int:
    """The set (not its id) for members[EXE, path_hash(path)], for a name that has become known."""
    return compiled.index.executable(path)


def member_for_cgroup(
    compiled: Compiled, path: str, container: Container | None = None, ground: Ground = NOTHING_KNOWN
) -> tuple[int, int]:
    """The set for members[CGROUP, id] of a cgroup created at `path`, and its MEMBER_FLAGS."""
    return compiled.index.cgroup(path, container, ground), member_flags(compiled.index, container)


def member_for_netns(compiled: Compiled, addresses: Iterable[Address]) -> int:
    """The set for members[NETNS, cookie] of another namespace of this host, by its addresses."""
    return compiled.index.netns(addresses)


def _rows(
    policy: Policy,
    facts: HostFacts,
    ids: Ids,
    index: Index,
    sets: Sets,
    plans: Mapping[Target, Sequence[PlannedGrant]],
    grants: dict[int, PlannedGrant],
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
                if plan.license.state is None or number not in grants:
                    grants[number] = plan
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
