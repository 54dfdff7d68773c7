"""The decision, in Python: reads Tables as the kernel does. bpf/lib/decide.h and bpf/lib/target.h do the same
in C, in the same order. Generated tests compare the two."""

from __future__ import annotations

from collections.abc import Callable

from agent.model import (
    Consumer,
    Decision,
    Destination,
    Mode,
    Reason,
    Target,
    Verdict,
)
from agent.policy.decision.consumer_sets import Who, who_is
from agent.policy.tables.shape import (
    DELIVERED,
    Candidate,
    Tables,
    TargetKey,
    TargetRow,
)
from agent.policy.terms.networks import is_per_namespace, prefixes_of
from agent.policy.values import Unresolved


def evaluate(
    tables: Tables,
    consumer: Consumer,
    destination: Destination,
    now_boot_ns: int,
    enforces: Callable[[Target], bool] | None = None,
) -> Verdict:
    """The kernel's decision. A verdict with target 0: no service declares the destination. `enforces`:
    whether a target enforces under the mode in force; by default, under the policy's mode."""
    row = row_of_destination(tables, destination)
    if row is None:
        return Verdict(Decision.ALLOWED, Reason.LICENSED)
    return decide(tables, row, who_is(tables, consumer), now_boot_ns, enforces)


def row_of_destination(tables: Tables, destination: Destination) -> TargetRow | None:
    number, protocol = tables.number_of(destination.port), int(destination.protocol)
    netns = destination.netns if is_per_namespace(destination.address) else 0
    for network in prefixes_of(destination.address) if number else ():
        key = TargetKey(netns, protocol, number, network)
        if key in tables.targets:
            return tables.rows[tables.targets[key]]
    key = TargetKey(destination.delivered_in, protocol, number, DELIVERED)
    return tables.rows[tables.targets[key]] if key in tables.targets else None


def row_of_target(tables: Tables, target: Target) -> TargetRow | None:
    return next((row for row in tables.rows.values() if row.target == target), None)


def decide(
    tables: Tables,
    row: TargetRow,
    who: Who,
    now_boot_ns: int,
    enforces: Callable[[Target], bool] | None = None,
) -> Verdict:
    """Decides in this order: excluded; any license; then the best outcome of the candidates, among equals the
    first in policy order. bpf/lib/decide.h says why a doubt does not undo a grace."""
    excluded = tables.sets[row.excluded]
    if who.low & excluded:
        return Verdict(Decision.DENIED, Reason.EXCLUDED, row.id)
    if not row.candidates:
        return Verdict(Decision.DENIED, Reason.NO_LICENSE, row.id)
    maybe_excluded = bool(who.high & excluded)
    maybe = False
    best = Verdict(Decision.DENIED, Reason.UNLICENSED_PRINCIPAL, row.id)
    for candidate in row.candidates:
        principal = tables.sets[candidate.principal]
        known = bool(who.low & principal)
        if not known and not who.high & principal:
            continue
        reason = window_reason(row, candidate, now_boot_ns)
        if reason is None and known and not maybe_excluded:
            granted = _granted(row, candidate, now_boot_ns)
            if granted.decision is Decision.ALLOWED:
                return granted
            if granted.decision < best.decision:
                best = granted
        elif reason is None:
            maybe = True
        elif known and best.decision is Decision.DENIED and reason > best.reason:
            best = Verdict(Decision.DENIED, reason, row.id, candidate.grant)
    if best.decision is Decision.DENIED and maybe:
        enforced = row.mode is Mode.ENFORCE if enforces is None else enforces(row.target)
        allowed = row.unresolved is Unresolved.ALLOW or (
            row.unresolved is Unresolved.ALLOW_UNLESS_ENFORCING and not enforced
        )
        return Verdict(Decision.ALLOWED if allowed else Decision.DENIED, Reason.UNRESOLVED, row.id)
    return best


def window_reason(row: TargetRow, candidate: Candidate, now_boot_ns: int) -> Reason | None:
    """The reason why the license's state or window denies now, or None."""
    if candidate.state:
        return Reason(candidate.state)
    if now_boot_ns < candidate.from_ns and row.clock_synced:
        return Reason.NOT_YET_VALID
    if now_boot_ns >= candidate.ends_ns:
        return Reason.EXPIRED
    return None


def outcome(row: TargetRow, candidate: Candidate, now_boot_ns: int) -> Verdict:
    """The verdict by this candidate alone, for a consumer whom it includes."""
    reason = window_reason(row, candidate, now_boot_ns)
    if reason is not None:
        return Verdict(Decision.DENIED, reason, row.id, candidate.grant)
    return _granted(row, candidate, now_boot_ns)


def _granted(row: TargetRow, candidate: Candidate, now_boot_ns: int) -> Verdict:
    if now_boot_ns < candidate.from_ns:
        return Verdict(Decision.GRACE, Reason.CLOCK_UNSYNCED, row.id, candidate.grant)
    if now_boot_ns >= candidate.expires_ns:
        return Verdict(Decision.GRACE, Reason.EXPIRED, row.id, candidate.grant)
    return Verdict(Decision.ALLOWED, Reason.LICENSED, row.id, candidate.grant)
