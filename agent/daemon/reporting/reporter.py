"""Emits events about judged attempts, flows, and connections found and cut. Nothing is decided here."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, replace

from agent import abi
from agent.daemon.enforcement.flow_cutter import Cut
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.outlet import Outlet
from agent.daemon.tracking.adoption import Adopted
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.consumers import network_name
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.usage import Attempt
from agent.export import events
from agent.export.events import Event
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import ProcessesAsStored, flow_of
from agent.model import Decision, Flow, Process, Target, Verdict


@dataclass(frozen=True, slots=True)
class Reporter:
    """Emits events of attempts, flows and connections found. Called in the loop's thread only."""

    outlet: Outlet
    keeper: PolicyKeeper
    listening: Listening
    attributor: Attributor
    names: Names

    def first_attempt(self, attempt: Attempt) -> None:
        kind = events.kind_of(attempt.use.verdict.decision)
        self.outlet.write({**self._attempt_event(kind, attempt), **self._resolved(attempt)})

    def summary(self, attempt: Attempt, now_ns: int) -> None:
        """Emit a summary of the attempts that a row has counted since the last report."""
        if attempt.is_first:
            kind, more = events.kind_of(attempt.use.verdict.decision), self._resolved(attempt)
        else:
            kind, more = "summary", {}
        event = {**self._attempt_event(kind, attempt), **more}
        seconds = max(0, now_ns - attempt.since_boot_ns) / 1e9  # a row may be younger than this look
        event["counts"] = {
            "attempts": attempt.new,
            "total": attempt.use.attempts,
            "seconds": round(seconds, 3),
        }
        self.outlet.log.write(event)
        if attempt.use.verdict.decision is Decision.DENIED:
            self.outlet.console.event(event)

    def adopted(self, found: Iterable[Adopted]) -> None:
        """Emit one event for all connections of one consumer to one target: a pool has thousands."""
        alike: dict[Hashable, list[Adopted]] = {}
        for one in found:
            key = one.target, one.flow.verdict, one.flow.origin, consumer_key(one.flow)
            alike.setdefault(key, []).append(one)
        for group in alike.values():
            target, flow = group[0].target, group[0].flow
            event = self._flow_event(events.kind_of(flow.verdict.decision), target, flow)
            counts = {"attempts": len(group), "total": len(group)}
            self.outlet.write({**event, "pre_existing": True, "counts": counts})

    def cut(self, ended: Iterable[Cut]) -> None:
        """Emit one event for all flows of one consumer to one target that ended together."""
        alike: dict[Hashable, list[Cut]] = {}
        for one in ended:
            alike.setdefault((one.target, consumer_key(one.flow)), []).append(one)
        for group in alike.values():
            target, flow = group[0].target, group[0].flow
            whole = replace(flow, consumer=self._complete(flow.consumer), owner=self._complete(flow.owner))
            event = self._flow_event("cut", target, whole)
            self.outlet.write({**event, "counts": {"flows": len(group)}})

    def flow(self, event: abi.FlowEvent) -> None:
        """Write a flow that opens or closes to the event log only."""
        seen = flow_of(event.cookie, event.flow, ProcessesAsStored(self.names))
        target = self.keeper.ids.target_named(seen.target)
        if target is None:
            return
        # when a flow opens, the kernel may not know its owner yet
        owner = self._complete(seen.owner) or self.listening.owner_of(seen.netns, seen.port, seen.address)
        flow = replace(
            seen,
            consumer=self._complete(seen.consumer),
            owner=owner,
            acceptor=self._complete(seen.acceptor),
        )
        kind = "flow_open" if event.header.type == abi.EventType.OPEN else "flow_close"
        fields = events.flow_fields(target, flow)
        self.outlet.log.write({"type": kind, "time": events.now_text(), **fields})

    def _attempt_event(self, kind: str, attempt: Attempt) -> Event:
        use = attempt.use
        return events.judged(
            kind,
            attempt.target,
            use.verdict,
            _consumer_of(attempt),
            origin=use.origin,
            rule=self._rule(use.verdict),
            endpoints=events.tuple_fields(
                use.protocol,
                use.source,
                use.source_port if use.is_of_one else 0,
                use.destination,
                use.port,
            ),
            owner=self.listening.owner_of(use.netns, use.port, use.destination),
        )

    def _flow_event(self, kind: str, target: Target, flow: Flow) -> Event:
        return events.judged(
            kind,
            target,
            flow.verdict,
            events.consumer_fields(flow.consumer, flow.consumer_address),
            origin=flow.origin,
            rule=self._rule(flow.verdict),
            endpoints=events.tuple_fields(
                flow.protocol, flow.consumer_address, flow.consumer_port, flow.address, flow.port
            ),
            owner=flow.owner,
        )

    def _resolved(self, attempt: Attempt) -> Event:
        verdict = attempt.resolved
        if verdict is None:
            return {}
        return {
            "resolved": {
                "decision": verdict.decision.name.lower(),
                "reason": verdict.reason.name.lower(),
                **self._rule(verdict),
            }
        }

    def _rule(self, verdict: Verdict) -> Mapping[str, str]:
        compiled = self.keeper.compiled
        grant = compiled.tables.grants.get(verdict.grant) if compiled else None
        if grant is None:
            return {}
        return {"license": grant.license, "entitlement": grant.entitlement, "principal": grant.principal}

    def _complete(self, process: Process | None) -> Process | None:
        return self.attributor.complete(process) if process else None


def consumer_key(flow: Flow) -> Hashable:
    """Key shared by the flows of one consumer: its process, or its address."""
    process = flow.consumer
    return (process.pid, process.start_boot_ns) if process else flow.consumer_address


def _consumer_of(attempt: Attempt) -> Event:
    """The consumer's fields. A row that stands for many is reported with its first consumer."""
    use, consumer = attempt.use, attempt.consumer
    if use.is_of_one:
        return events.consumer_fields(consumer, use.source)
    if use.use_of is abi.UseOf.OTHERS:
        return {"identity": "others"}
    if consumer is None:
        return {"identity": "network", "network": network_name(use)}
    return {"identity": "user", **events.process_fields(consumer)}
