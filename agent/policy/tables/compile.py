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
from agent.policy.tables.grants import PlannedGrant, able_to_grant
from agent.policy.tables.host_warnings import host_warnings
from agent.policy.tables.ids import Ids
from agent.policy.tables.index import Index, index_clauses
from agent.policy.tables.members import member_flags
from agent.policy.tables.named_sets import named_sets
from agent.policy.tables.shape import (
    Tables,
    empty_tables,
)
from agent.policy.tables.target_rows import target_rows
from agent.policy.tables.windows import moment
from agent.policy.terms.cgroups import NOTHING_KNOWN, Ground, ground_of
from agent.policy.values import Finding, Policy


@dataclass(frozen=True, slots=True)
class Compiled:
    tables: Tables
    warnings: tuple[Finding, ...] = ()
    """Of the policy itself, and of what overlaps on this host."""
    of_host: tuple[Finding, ...] = ()
    """What the policy names and this host did not have then."""
    clauses: tuple[Clause, ...] = ()
    index: Index = field(default_factory=lambda: index_clauses((), HostFacts(0, ())))
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
    named = named_sets(clauses, facts)
    judged = target_rows(policy, facts, ids, now, named)
    named.sets.check(policy)
    numbers = port_numbers(policy)
    targets, overlaps = target_keys(policy, facts, ids, numbers)
    tables = Tables(
        seed=facts.hash_seed,
        targets=targets,
        rows=judged.rows,
        members=named.members,
        sources=named.sources,
        sets=named.sets.all,
        grants=judged.grants,
        owners=judged.owners,
        elsewhere=frozenset((facts.host_netns, address) for address in facts.elsewhere),
        ground=ground_of(facts),
        subordinates=named.subordinates,
        numbers=numbers,
    )
    return Compiled(
        tables,
        (*policy.warnings, *overlaps),
        tuple(host_warnings(policy, facts)),
        tuple(clauses),
        named.index,
        judged.plans,
    )


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
