"""The decision, in Python: reads Tables as the kernel does. bpf/decide.h and bpf/target.h say the same
in C, in the same order; generated tests hold the two together."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from agent.model import (
    Consumer,
    Decision,
    Destination,
    LocalConsumer,
    Reason,
    RemoteConsumer,
    Target,
    Verdict,
)
from agent.policy.hashing import path_hash, string_hash
from agent.policy.networks import is_per_namespace, prefixes_of
from agent.policy.paths import components, directory_of
from agent.policy.tables import (
    MAX_PATH_COMPONENTS,
    MEMBER_UNSURE,
    Candidate,
    Dimension,
    SetId,
    Tables,
    TargetKey,
    TargetRow,
    Uncertain,
)

MAX_GROUPS = 64
MAX_CGROUPS = 12
"""What the kernel looks at (bpf/abi.h); beyond, the dimension is uncertain."""

NO_EXECUTABLE = ""
"""A LocalConsumer's exe, for a task that has none."""


@dataclass(frozen=True, slots=True)
class Step:
    """What one dimension leaves possible; `uncertain` is its `Uncertain` flag, or 0."""

    dimension: Dimension
    set: int
    uncertain: int = 0


@dataclass(frozen=True, slots=True)
class Who:
    """Clauses that could hold for a consumer, and those that do."""

    high: int
    low: int


def evaluate(tables: Tables, consumer: Consumer, destination: Destination, now_boot_ns: int) -> Verdict:
    """What the kernel decides. A verdict with target 0: nothing declares the destination."""
    row = row_of_destination(tables, destination)
    if row is None:
        return Verdict(Decision.ALLOWED, Reason.LICENSED)
    return decide(tables, row, who_is(tables, consumer), now_boot_ns)


def row_of_destination(tables: Tables, destination: Destination) -> TargetRow | None:
    netns = destination.netns if is_per_namespace(destination.address) else 0
    for network in prefixes_of(destination.address):
        key = TargetKey(netns, int(destination.protocol), destination.port, network)
        if key in tables.targets:
            return tables.rows[tables.targets[key]]
    return None


def row_of_target(tables: Tables, target: Target) -> TargetRow | None:
    return next((row for row in tables.rows.values() if row.target == target), None)


def who_is(tables: Tables, consumer: Consumer) -> Who:
    if isinstance(consumer, RemoteConsumer):
        found = source_set(tables, consumer)
        return Who(found, found)
    high = tables.sets[SetId.ALL]
    uncertain = 0
    for step in local_steps(tables, consumer):
        high &= step.set
        uncertain |= step.uncertain
    return Who(high, high & tables.sets[SetId.CERTAIN + uncertain])


def source_set(tables: Tables, consumer: RemoteConsumer) -> int:
    for network in prefixes_of(consumer.address):
        if network in tables.sources:
            return tables.sets[tables.sources[network]]
    return tables.sets[SetId.MISS_SOURCE]


def local_steps(tables: Tables, consumer: LocalConsumer) -> Iterator[Step]:
    yield _exe(tables, consumer.exe)
    found = _member(tables, Dimension.UID, consumer.uid)
    yield Step(Dimension.UID, _missed(tables, Dimension.UID) if found is None else found)
    if len(consumer.gids) > MAX_GROUPS:
        yield Step(Dimension.GID, tables.sets[SetId.ALL], Uncertain.GID)
    else:
        yield _any(tables, Dimension.GID, Dimension.GID, consumer.gids)
    if len(consumer.cgroups) > MAX_CGROUPS:
        yield Step(Dimension.CGROUP, tables.sets[SetId.ALL], Uncertain.CGROUP)
    else:
        paths = [string_hash(path, tables.seed) for path in consumer.cgroups]
        step = _any(tables, Dimension.CGROUP, Dimension.CGROUP_PATH, paths)
        unsure = any(tables.members.get((Dimension.CGROUP_PATH, path), 0) & MEMBER_UNSURE for path in paths)
        yield replace(step, uncertain=Uncertain.CONTAINER) if unsure else step
    found = _member(tables, Dimension.NETNS, consumer.netns)
    if found is None:
        yield Step(Dimension.NETNS, _missed(tables, Dimension.NETNS), Uncertain.NETNS)
    else:
        yield Step(Dimension.NETNS, found)


def _exe(tables: Tables, path: str | None) -> Step:
    if path is None or components(path) > MAX_PATH_COMPONENTS:
        return Step(Dimension.EXE, _missed(tables, Dimension.EXE), Uncertain.EXE)
    key = 0 if path == NO_EXECUTABLE else path_hash(path, tables.seed)
    found = _member(tables, Dimension.EXE, key)
    if found is not None:
        return Step(Dimension.EXE, found)
    found = _member(tables, Dimension.EXE_DIR, path_hash(directory_of(path), tables.seed))
    return Step(Dimension.EXE, _missed(tables, Dimension.EXE) if found is None else found, Uncertain.EXE)


def _any(tables: Tables, dimension: Dimension, key: Dimension, values: Iterable[int]) -> Step:
    found = _missed(tables, dimension)
    for value in values:
        found |= _member(tables, key, value) or 0
    return Step(dimension, found)


def _member(tables: Tables, dimension: Dimension, value: int) -> int | None:
    number = tables.members.get((dimension, value))
    return None if number is None else tables.sets[number & ~MEMBER_UNSURE]


def _missed(tables: Tables, dimension: Dimension) -> int:
    return tables.sets[SetId.MISS + dimension]


def decide(tables: Tables, row: TargetRow, who: Who, now_boot_ns: int) -> Verdict:
    """The order of design.md: excluded; any license; then the candidates in policy order."""
    excluded = tables.sets[row.excluded]
    if who.low & excluded:
        return Verdict(Decision.DENIED, Reason.EXCLUDED, row.id)
    if not row.candidates:
        return Verdict(Decision.DENIED, Reason.NO_LICENSE, row.id)
    maybe_excluded = bool(who.high & excluded)
    maybe = False
    furthest, grant = Reason.UNLICENSED_PRINCIPAL, 0
    for candidate in row.candidates:
        principal = tables.sets[candidate.principal]
        known = bool(who.low & principal)
        if not known and not who.high & principal:
            continue
        reason = window_reason(row, candidate, now_boot_ns)
        if reason is None and known and not maybe_excluded:
            return _allow(row, candidate, now_boot_ns)
        if reason is None:
            maybe = True
        elif known and reason > furthest:
            furthest, grant = reason, candidate.grant
    if maybe:
        decision = Decision.ALLOWED if row.unresolved_allowed else Decision.DENIED
        return Verdict(decision, Reason.UNRESOLVED, row.id)
    return Verdict(Decision.DENIED, furthest, row.id, grant)


def window_reason(row: TargetRow, candidate: Candidate, now_boot_ns: int) -> Reason | None:
    """What the license's state and window say now: the reason that denies, or None."""
    if candidate.state:
        return Reason(candidate.state)
    if now_boot_ns < candidate.from_ns and row.clock_synced:
        return Reason.NOT_YET_VALID
    if now_boot_ns >= candidate.ends_ns:
        return Reason.EXPIRED
    return None


def _allow(row: TargetRow, candidate: Candidate, now_boot_ns: int) -> Verdict:
    if now_boot_ns < candidate.from_ns:
        return Verdict(Decision.GRACE, Reason.CLOCK_UNSYNCED, row.id, candidate.grant)
    if now_boot_ns >= candidate.expires_ns:
        return Verdict(Decision.GRACE, Reason.EXPIRED, row.id, candidate.grant)
    return Verdict(Decision.ALLOWED, Reason.LICENSED, row.id, candidate.grant)
