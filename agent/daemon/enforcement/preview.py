"""Whom `enforce` would refuse: every use of the last hour, judged by the policy in force."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.consumers import local_consumer, name_of
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.past_uses import PastUse
from agent.daemon.tracking.usage import Usage
from agent.export.events import now_text, target_fields, unix_time
from agent.model import MEMFD, Decision, Destination, Process, Reason, RemoteConsumer, Target, Verdict
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide, row_of_destination, window_reason
from agent.policy.decision.partly_known import spoken_groups, tables_with, told_apart, who_could_be
from agent.policy.tables.compile import Compiled
from agent.policy.tables.shape import Tables, TargetRow
from agent.policy.terms.networks import NEAR, around
from agent.policy.values import Unresolved

Row = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The preview, JSON-ready, most attempts first."""

    refused: list[Row] = field(default_factory=list)
    unknown: list[Row] = field(default_factory=list)
    """Uses that cannot be judged, because too few facts are known."""


@dataclass(frozen=True, slots=True)
class Foresight:
    """Judges the uses of the last hour, and open connections, as if their targets enforced already."""

    keeper: PolicyKeeper
    usage: Usage
    flows: FlowTable

    def of(
        self, targets: Collection[Target], since_ns: int, now_ns: int, failsafe: Collection[int]
    ) -> Foreseen:
        """The preview for these targets, including their open connections."""
        judging = self.keeper.judged_by()
        if judging is None or not targets:
            return Foreseen()
        judge = _Judge(*judging, self.keeper.judged_since_ns, now_ns)
        refused: dict[tuple[str, Target, str], list[PastUse]] = {}
        unknown: dict[tuple[str, Target, str], list[PastUse]] = {}
        for one in (*self.usage.since(since_ns), *self.flows.uses()):
            row = judge.row_of(one)
            if row is None or row.target not in targets or one.use.port in failsafe:
                continue
            verdict = judge.verdict(one, row)
            consumer = name_of(one.use, one.consumer)
            if verdict is None:
                unknown.setdefault((consumer, row.target, ""), []).append(one)
            elif verdict.decision is Decision.DENIED:
                key = (consumer, row.target, verdict.reason.name.lower())
                refused.setdefault(key, []).append(one)
        return Foreseen(_rows(refused), _rows(unknown))


def _rows(found: Mapping[tuple[str, Target, str], list[PastUse]]) -> list[Row]:
    rows = [
        {
            "consumer": consumer,
            **target_fields(target),
            **({"reason": reason} if reason else {}),
            "attempts": sum(one.use.attempts for one in group),
            "open": sum(one.open for one in group),
            "since": now_text(unix_time(min(one.use.first_boot_ns for one in group))),
            "last": now_text(unix_time(max(one.use.last_boot_ns for one in group))),
        }
        for (consumer, target, reason), group in found.items()
    ]
    return sorted(rows, key=lambda row: (-row["attempts"], -row["open"]))


class _Judge:
    """Judges by the tables in force, as if all targets enforced."""

    def __init__(self, compiled: Compiled, tables: Tables, in_force_since_ns: int, now_ns: int) -> None:
        self._compiled = compiled
        self._tables = tables
        self._in_force_since_ns = in_force_since_ns
        self._now_ns = now_ns
        self._rows = {row.target: row for row in tables.rows.values()}
        self._at: dict[Destination, TargetRow | None] = {}
        self._groups = spoken_groups(tables)
        self._told_apart = told_apart(tables.sources)
        self._spots = {(key.protocol, key.ports, number) for key, number in tables.targets.items()}

    def row_of(self, one: PastUse) -> TargetRow | None:
        """The target that the use would belong to now, or None if no service declares it."""
        use = one.use
        destination = Destination(use.protocol, use.destination, use.port, use.netns)
        if destination not in self._at:
            self._at[destination] = row_of_destination(self._tables, destination)
        found = self._at[destination]
        # some places have no entry: traffic delivered here, a container that is gone
        row, ports = self._rows.get(one.target), self._tables.number_of(use.port)
        still = row is not None and (int(use.protocol), ports, row.id) in self._spots
        return found or (row if still else None)

    def verdict(self, one: PastUse, row: TargetRow) -> Verdict | None:
        """The verdict, or None if it cannot be known."""
        found, word = self._evaluated(one, row), one.use.verdict
        if found is not None and found.reason is not Reason.UNRESOLVED:
            return found
        if found is not None and word.reason is Reason.UNRESOLVED:
            return found
        # the kernel knew the facts missing here, and judged by the same policy
        if one.use.last_boot_ns < self._in_force_since_ns or word.target != row.id:
            return None
        if word.reason is Reason.UNRESOLVED:
            lets_in = row.unresolved is Unresolved.ALLOW
            return replace(word, decision=Decision.ALLOWED if lets_in else Decision.DENIED)
        return word if word.decision is Decision.DENIED or self._still_runs(row, word.grant) else None

    def _evaluated(self, one: PastUse, row: TargetRow) -> Verdict | None:
        """The verdict, or None if the use may stand for consumers that are judged differently."""
        use, process = one.use, one.consumer
        if not use.is_of_one:
            return None
        if process is None:
            if use.attempts > 1 and around(use.source, NEAR) in self._told_apart:
                return None
            who = who_is(self._tables, RemoteConsumer(use.source))
            return decide(self._tables, row, who, self._now_ns, lambda _: True)
        if not _place_is_known(process, self._tables):
            return None
        consumer = local_consumer(
            replace(process, exe=_whole_path(process)), use.netns, name_is_trusted=not process.exe_untrusted
        )
        tables = tables_with(self._compiled, self._tables, consumer, process.container)
        who = who_is(tables, consumer) if process.is_whole else who_could_be(tables, consumer, self._groups)
        return decide(tables, row, who, self._now_ns, lambda _: True)

    def _still_runs(self, row: TargetRow, grant: int) -> bool:
        return any(
            one.grant == grant and window_reason(row, one, self._now_ns) is None for one in row.candidates
        )


def _place_is_known(process: Process, tables: Tables) -> bool:
    """True if the cgroup's ground is known. It is forgotten with the cgroup, and a cgroup below a user's is
    never a unit."""
    if not process.cgroup:
        return not process.cgroup_id
    return bool(process.container) or tables.ground.unit_of(process.cgroup) == process.unit


def _whole_path(process: Process) -> str:
    """The executable's path if known as a whole, else ""."""
    exe = process.exe
    return "" if exe == MEMFD or "…" in (exe[:1], exe[-1:]) else exe
