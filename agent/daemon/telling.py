"""What the daemon tells: events to the log, and readable lines to the person who started it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Mapping
from dataclasses import replace

from agent.daemon.attribute import Attributor
from agent.daemon.cutting import Cut
from agent.daemon.flows import Adopted, local_consumer
from agent.daemon.following import Findings
from agent.daemon.listening import Listening, serving_process
from agent.daemon.policies import PolicyKeeper
from agent.daemon.usage import Attempt, Usage
from agent.export import events
from agent.export.event_log import EventLog
from agent.export.events import Event
from agent.export.human import human_line, place
from agent.export.sink import DescriptorSink, NoSink
from agent.export.view import Agent, JudgedListener
from agent.kernel import abi
from agent.kernel.records import Names, flow_of
from agent.model import (
    Address,
    Decision,
    Destination,
    Flow,
    ListenerState,
    Origin,
    Process,
    Reason,
    Target,
    Verdict,
    show_address,
)
from agent.policy.evaluate import evaluate
from agent.policy.listeners import in_scope

EDGES_SHOWN = 10
REFUSED_BIND_S = 60.0
"""A refused bind() is told again after this long: a service may retry ten times a second."""
REFUSED_BINDS = 1024


def _sameness(adopted: Adopted) -> object:
    """What makes two connections from before the agent one use."""
    flow, consumer = adopted.flow, adopted.flow.consumer
    who = (consumer.pid, consumer.start_boot_ns) if consumer else flow.consumer_address
    return adopted.target, flow.verdict, flow.origin, who


class Teller:
    def __init__(
        self,
        event_log: EventLog,
        keeper: PolicyKeeper,
        listening: Listening,
        attributor: Attributor,
        quiet: bool,
    ) -> None:
        self._log = event_log
        self._keeper = keeper
        self._listening = listening
        self._attributor = attributor
        self._people = NoSink() if quiet else DescriptorSink(sys.stderr.fileno())
        self._exposed_peers: set[tuple[Target, str]] = set()
        self._refused_binds: dict[tuple[str, int | None, int, int], tuple[float, int]] = {}
        """By (executable, uid, cgroup, port): when it was told, and how many have come since."""

    def _tell(self, event: Event) -> None:
        self._log.write(event)
        if event["type"] != "use":
            self._say(human_line(event))

    def _say(self, text: str) -> None:
        """A terminal that is gone, or does not take more, must not stop the agent."""
        with contextlib.suppress(OSError):
            self._people.write(text)

    def _rule(self, verdict: Verdict) -> Mapping[str, str]:
        compiled = self._keeper.compiled
        grant = compiled.tables.grants.get(verdict.grant) if compiled else None
        if grant is None:
            return {}
        return {"license": grant.license, "entitlement": grant.entitlement, "principal": grant.principal}

    def first_attempt(self, attempt: Attempt) -> None:
        kind = events.kind_of(attempt.use.verdict.decision)
        self._tell({**self._attempt_event(kind, attempt), **self._resolved(attempt)})
        self._note_exposure(attempt)

    def _resolved(self, attempt: Attempt) -> Event:
        """What an unresolved attempt would have met, had its consumer been known then."""
        use, consumer = attempt.use, attempt.consumer
        if use.verdict.reason is not Reason.UNRESOLVED or consumer is None:
            return {}
        tables = self._keeper.tables
        if tables is None:
            return {}
        verdict = evaluate(
            tables,
            local_consumer(consumer, consumer.netns, name_is_trusted=not consumer.exe_untrusted),
            Destination(use.protocol, use.destination, use.port, consumer.netns),
            use.first_boot_ns,
        )
        return {
            "resolved": {
                "decision": verdict.decision.name.lower(),
                "reason": verdict.reason.name.lower(),
                **self._rule(verdict),
            }
        }

    def summaries(self, usage: Usage) -> None:
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        for attempt in usage.repeats(now_ns):
            event = self._attempt_event("summary", attempt)
            seconds = (now_ns - attempt.since_boot_ns) / 1e9
            event["counts"] = {
                "attempts": attempt.new,
                "total": attempt.use.attempts,
                "seconds": round(seconds, 3),
            }
            self._log.write(event)
            if attempt.use.verdict.decision is Decision.DENIED:
                self._say(human_line(event))
            self._note_exposure(attempt)

    def _attempt_event(self, kind: str, attempt: Attempt) -> Event:
        use = attempt.use
        netns = use.consumer.netns if use.consumer else 0
        return events.judged(
            kind,
            attempt.target,
            use.verdict,
            events.consumer_fields(attempt.consumer, use.source),
            origin=use.origin,
            rule=self._rule(use.verdict),
            endpoints=events.tuple_fields(
                use.protocol, use.source, use.source_port, use.destination, use.port
            ),
            owner=self._listening.owner_of(netns, use.port, use.destination),
        )

    def _note_exposure(self, attempt: Attempt) -> None:
        """A port reached from outside its listening scope: the peer is the evidence."""
        use, policy = attempt.use, self._keeper.policy
        if use.origin is not Origin.REMOTE or policy is None:
            return
        if in_scope(policy, attempt.target, use.source):
            return
        peer = show_address(use.source)
        if (attempt.target, peer) in self._exposed_peers:
            return
        self._exposed_peers.add((attempt.target, peer))
        self._listening.violations[
            (attempt.target.service, attempt.target.port_class.value, ListenerState.EXPOSED.value)
        ] += 1
        self._tell(
            {
                "type": "exposure",
                "time": events.now_text(),
                "reason": ListenerState.EXPOSED.value,
                "service": attempt.target.service,
                "class": attempt.target.port_class.value,
                "consumer": events.consumer_fields(None, use.source),
                "tuple": events.tuple_fields(
                    use.protocol, use.source, use.source_port, use.destination, use.port
                ),
                "explanation": f"reached from {peer}, outside its listening scope; "
                "narrow who can reach it, or widen `bind` of the port",
            }
        )

    def findings(self, findings: Findings) -> None:
        for judged, state in findings.listeners:
            self._listener(judged, state)
        alike: dict[object, list[Adopted]] = {}
        for adopted in findings.adopted:
            alike.setdefault(_sameness(adopted), []).append(adopted)
        for group in alike.values():
            self._adopted(group[0].target, group[0].flow, len(group))

    def cut(self, ended: list[Cut]) -> None:
        """One event for all the flows of one consumer to one target that ended together."""
        alike: dict[object, list[Cut]] = {}
        for one in ended:
            process = one.flow.consumer
            who = (process.pid, process.start_boot_ns) if process else one.flow.consumer_address
            alike.setdefault((one.target, who), []).append(one)
        for group in alike.values():
            target, flow = group[0].target, group[0].flow
            event = events.judged(
                "cut",
                target,
                flow.verdict,
                events.consumer_fields(self._completed(flow.consumer), flow.consumer_address),
                origin=flow.origin,
                rule=self._rule(flow.verdict),
                endpoints=events.tuple_fields(
                    flow.protocol, flow.consumer_address, flow.consumer_port, flow.address, flow.port
                ),
                owner=self._completed(flow.owner),
            )
            self._tell({**event, "counts": {"flows": len(group)}})

    def refused_bind(self, process: Process, address: Address, port: int) -> None:
        """Somebody who is not the owner tried to take a declared port; told once a minute, with the count."""
        key = (process.exe, process.uid, process.cgroup_id, port)
        since_s, attempts = self._refused_binds.get(key, (-REFUSED_BIND_S, 0))
        if time.monotonic() - since_s < REFUSED_BIND_S:
            self._refused_binds[key] = (since_s, attempts + 1)
            return
        if len(self._refused_binds) >= REFUSED_BINDS:
            self._refused_binds.clear()
        self._refused_binds[key] = (time.monotonic(), 0)
        self._tell(
            {
                "type": "listener",
                "time": events.now_text(),
                "reason": ListenerState.OWNER_MISMATCH.value,
                "enforced": True,
                "address": show_address(address),
                "port": port,
                "owner": events.process_fields(process),
                "explanation": f"bind() to port {port} was refused: the policy names another owner of it",
                "counts": {"attempts": attempts + 1},
            }
        )

    def _listener(self, judged: JudgedListener, state: ListenerState) -> None:
        listener = judged.listener
        owner = serving_process(listener)
        self._tell(
            {
                "type": "listener",
                "time": events.now_text(),
                "reason": state.value,
                "service": judged.service,
                "class": judged.port_class,
                "bind": judged.bind,
                "address": show_address(listener.address),
                "port": listener.port,
                "protocol": listener.protocol.name.lower(),
                "owner": events.process_fields(owner) if owner else {},
                "explanation": judged.explanation
                or f"{show_address(listener.address)}:{listener.port} is not declared by any service",
            }
        )

    def _adopted(self, target: Target, flow: Flow, attempts: int) -> None:
        """One event for all the connections of one consumer to one target: a pool has thousands."""
        event = events.judged(
            events.kind_of(flow.verdict.decision),
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
        self._tell({**event, "pre_existing": True, "counts": {"attempts": attempts, "total": attempts}})

    def flow(self, event: abi.FlowEvent, names: Names) -> None:
        seen = flow_of(event.cookie, event.flow, names)
        target = self._keeper.ids.target_named(seen.target)
        if target is None:
            return
        # when a flow opens, the kernel may not have met its owner yet
        owner = self._completed(seen.owner) or self._listening.owner_of(seen.netns, seen.port, seen.address)
        flow = replace(
            seen,
            consumer=self._completed(seen.consumer),
            owner=owner,
            acceptor=self._completed(seen.acceptor),
        )
        kind = "flow_open" if event.header.type == abi.EventType.OPEN else "flow_close"
        self._log.write({"type": kind, "time": events.now_text(), **events.flow_fields(target, flow)})

    def _completed(self, process: Process | None) -> Process | None:
        return self._attributor.complete(process) if process else None

    def policy_loaded(self) -> None:
        keeper = self._keeper
        targets = len(keeper.policy.targets) if keeper.policy else 0
        self._tell(
            {
                "type": "policy",
                "time": events.now_text(),
                "generation": keeper.generation,
                "message": f"generation {keeper.generation} in force: {targets} targets",
            }
        )

    def policy_refused(self, why: str) -> None:
        self._tell(
            {
                "type": "policy_error",
                "time": events.now_text(),
                "generation": self._keeper.generation,
                "message": f"the policy in force stays: {why}",
            }
        )

    def mode(self, event: Event) -> None:
        """Somebody changed a mode, or an override has ended."""
        self._tell(event)

    def started(self, view: Agent) -> None:
        status = view.status()
        self._log.write({"type": "started", "time": events.now_text(), "version": status["version"]})
        gates = ", ".join(gate["gate"] for gate in status["gates"] if gate["attached_to"])
        refusing = f"refusing: {gates}" if gates else "nothing is refused"
        self._say(f"licet {status['version']} watches {status['scope']['cgroup']} ({refusing})")
        for hook in status["hooks"]:
            self._say(f"  {hook['hook']:8} {hook['rung']}")
        if any(hook["rung"] == "none" for hook in status["hooks"]):
            self._say("  (what this kernel lacks, and what follows: licet status, licet doctor)")
        self._say_listeners(view)
        self._say(f"metrics: http://{status['listen']}/metrics")

    def edges(self, view: Agent) -> None:
        """The busiest connections that no service declares, while they are being aggregated."""
        edges = view.edges(EDGES_SHOWN)
        if edges:
            self._say("busiest unprotected connections so far:")
        for edge in edges:
            if edge["direction"] == "outbound":
                line = f"{edge['exe'] or '?'} → {edge['peer']}:{edge['port']}"
            else:
                line = f"{edge['peer']} → port {edge['port']}"
            self._say(f"  {edge['connections']:8,} {edge['direction']:8} {line}")

    def _say_listeners(self, view: Agent) -> None:
        rows = view.listeners()
        self._say(f"{len(rows)} listeners:")
        for one in rows:
            owner = serving_process(one.listener)
            name = f"{owner.comm}[{owner.pid}]" if owner else "?"
            where = place(show_address(one.listener.address), one.listener.port)
            # what a policy declares, it judges itself
            looks_internal = one.catalog and not one.service and one.bind in ("any", "public")
            mark = "  looks internal and listens wide" if looks_internal else ""
            service = one.service or one.catalog.partition(":")[0]
            self._say(f"  {one.listener.protocol.name:3} {where:28} {one.bind:9} {name:24} {service}{mark}")

    def stopped(self) -> None:
        self._log.write({"type": "stopped", "time": events.now_text()})
        self._say("stopped; programs and counters stay in the kernel (licet unload lets go of them)")
