"""What the daemon tells: events to the log, and readable lines to the person who started it."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace

from agent import abi
from agent.daemon.enforcement.flow_cutter import Cut
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.flows import Adopted, local_consumer
from agent.daemon.tracking.listeners import Listening, serving_process
from agent.daemon.tracking.reconcile import Findings
from agent.daemon.tracking.tally import Recent
from agent.daemon.tracking.usage import Attempt, Usage, network_name, network_of
from agent.export import events
from agent.export.event_log import EventLog
from agent.export.events import Event
from agent.export.human import human_line, place
from agent.export.sink import DescriptorSink
from agent.export.view import Agent, JudgedListener
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import flow_of
from agent.model import (
    Address,
    Decision,
    Flow,
    ListenerState,
    Origin,
    Process,
    Protocol,
    Reason,
    Target,
    Verdict,
    show_address,
)
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide
from agent.policy.decision.listeners import in_scope
from agent.policy.terms.ports import Ports
from agent.policy.validity import Term, Validity
from agent.system.boottime import boot_ns
from agent.wording import counted

EDGES_SHOWN = 10
EDGES_KEPT = 4096
"""All that the kernel has."""
LISTENERS_OF_ONE = 100
"""That one user has newly made are told one by one after a look."""
REFUSED_BIND_S = 60.0
"""A refused bind() is told again after this long: a service may retry ten times a second."""
REFUSED_BINDS = 1024
EXPOSED_PEERS = 4096
"""Networks that reached what they should not: each is told once, while it is among the last."""


def _sameness(adopted: Adopted) -> object:
    """What makes two connections from before the agent one use."""
    flow, consumer = adopted.flow, adopted.flow.consumer
    who = (consumer.pid, consumer.start_boot_ns) if consumer else flow.consumer_address
    return adopted.target, flow.verdict, flow.origin, who


def _consumer_of(attempt: Attempt) -> Event:
    """The first consumer of a row is named, also where the row stands for many."""
    use, consumer = attempt.use, attempt.consumer
    if use.is_of_one:
        return events.consumer_fields(consumer, use.source)
    if use.use_of is abi.UseOf.OTHERS:
        return {"identity": "others"}
    if consumer is None:
        return {"identity": "network", "network": network_name(use)}
    return {"identity": "user", **events.process_fields(consumer)}


def _why_refused(process: Process, port: int, served: Event) -> str:
    """`served`: the target that the port is, with the place of the rule; without it, the policy has changed
    meanwhile."""
    if "rule" not in served:
        return f"bind() to port {port} was refused: the policy names another owner of it"
    who, user = process.exe or process.comm, process.user or process.uid
    return (
        f"bind() to port {port} of {served['service']} was refused: {who} of user {user} is none of its "
        f"owners ({served['rule']}): stop it, or let `owner` say who it is: {{exe: {who}, user: {user}}}"
    )


class Teller:
    def __init__(
        self,
        event_log: EventLog,
        keeper: PolicyKeeper,
        listening: Listening,
        attributor: Attributor,
        quiet: bool,
        enforces: Callable[[Target], bool] | None = None,
    ) -> None:
        self._log = event_log
        self._keeper = keeper
        self._listening = listening
        self._attributor = attributor
        self._enforces = enforces
        self._people = None if quiet else DescriptorSink(sys.stderr.fileno())
        self._exposed: Recent[tuple[Target, bytes]] = Recent(EXPOSED_PEERS)
        """By target and the network of the peer, as the kernel's rows have it."""
        self._refused_binds: dict[tuple[str, int | None, int, Protocol, int], tuple[float, int]] = {}
        """By (executable, uid, cgroup, protocol, port): when it was told, and how many have come since."""

    def _tell(self, event: Event) -> None:
        self._log.write(event)
        if event["type"] != "use":
            self._say_of(event)

    def _say_of(self, event: Event) -> None:
        if self._people is not None:  # a line takes as long as all the rest of an event
            self._say(human_line(event))

    def _say(self, text: str) -> None:
        """A terminal that is gone, or does not take more, must not stop the agent."""
        if self._people is not None:
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
        row = tables.rows.get(use.verdict.target) if tables else None
        if tables is None or row is None:
            return {}
        trusted = not consumer.exe_untrusted
        who = who_is(tables, local_consumer(consumer, consumer.netns, name_is_trusted=trusted))
        verdict = decide(tables, row, who, use.first_boot_ns, self._enforces)
        return {
            "resolved": {
                "decision": verdict.decision.name.lower(),
                "reason": verdict.reason.name.lower(),
                **self._rule(verdict),
            }
        }

    def summarising(self, usage: Usage) -> Iterator[None]:
        """Row by row: there may be 12,000, and others want their turn between them."""
        now_ns = boot_ns()
        for attempt in usage.look(now_ns):
            if attempt is not None:
                self._summary(attempt, now_ns)
            yield

    def _summary(self, attempt: Attempt, now_ns: int) -> None:
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
        self._log.write(event)
        if attempt.use.verdict.decision is Decision.DENIED:
            self._say_of(event)
        self._note_exposure(attempt)

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
            owner=self._listening.owner_of(use.netns, use.port, use.destination),
        )

    def _note_exposure(self, attempt: Attempt) -> None:
        """A port reached from outside its listening scope: the peer is the evidence. Who was refused has not
        reached it, and is told as a violation: a remote host can feign any number of peers."""
        use, policy = attempt.use, self._keeper.policy
        if use.origin is not Origin.REMOTE or policy is None or use.verdict.enforced:
            return
        if in_scope(policy, attempt.target, use.source):
            return
        if not self._exposed.is_new((attempt.target, network_of(use).packed)):
            return
        peer = show_address(use.source)
        self._listening.violations.add(
            (attempt.target.service, attempt.target.port_class.value, ListenerState.EXPOSED.value)
        )
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
        self._listeners(findings.listeners)
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

    def refused_bind(
        self, process: Process, address: Address, protocol: Protocol, port: int, target: int
    ) -> None:
        """Somebody who is not the owner tried to take a declared port; told once a minute, with the count."""
        key = (process.exe, process.uid, process.cgroup_id, protocol, port)
        since_s, attempts = self._refused_binds.get(key, (-REFUSED_BIND_S, 0))
        if time.monotonic() - since_s < REFUSED_BIND_S:
            self._refused_binds[key] = (since_s, attempts + 1)
            return
        if len(self._refused_binds) >= REFUSED_BINDS:
            self._refused_binds.clear()
        self._refused_binds[key] = (time.monotonic(), 0)
        served = self._served_by(target)
        self._tell(
            {
                "type": "listener",
                "time": events.now_text(),
                "reason": ListenerState.OWNER_MISMATCH.value,
                "enforced": True,
                **served,
                "address": show_address(address),
                "port": port,
                "protocol": protocol.name.lower(),
                "owner": events.process_fields(process),
                "explanation": _why_refused(process, port, served),
                "counts": {"attempts": attempts + 1},
            }
        )

    def _served_by(self, number: int) -> Event:
        """A target, and where the policy says who serves it."""
        target = self._keeper.ids.target_named(number)
        if target is None:
            return {}
        return {
            "service": target.service,
            "class": target.port_class.value,
            **self._owners_rule(target.service),
        }

    def _owners_rule(self, name: str) -> Event:
        policy = self._keeper.policy
        service = policy.services.get(name) if policy else None
        return {"rule": str(service.owner[0].place)} if service and service.owner else {}

    def _listeners(self, found: list[tuple[JudgedListener, ListenerState]]) -> None:
        """One by one, but of one user only so many: he may have 20,000."""
        alike: dict[tuple[ListenerState, str, str, int], list[JudgedListener]] = {}
        for one, state in found:
            alike.setdefault((state, one.service, one.port_class, one.listener.uid), []).append(one)
        for (state, *_), group in alike.items():
            for one in group[:LISTENERS_OF_ONE]:
                self._listener(one, state)
            if len(group) > LISTENERS_OF_ONE:
                self._more_listeners(group[-1], state, len(group) - LISTENERS_OF_ONE)

    def _more_listeners(self, one: JudgedListener, state: ListenerState, more: int) -> None:
        owner = serving_process(one.listener)
        self._tell(
            {
                "type": "listener",
                "time": events.now_text(),
                "reason": state.value,
                "service": one.service,
                "class": one.port_class,
                "owner": events.process_fields(owner) if owner else {},
                "explanation": f"and {counted(more, 'more listener')} of uid {one.listener.uid}: "
                "licet listeners",
                "counts": {"listeners": more},
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
                **(self._owners_rule(judged.service) if state is ListenerState.OWNER_MISMATCH else {}),
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
                "message": f"generation {keeper.generation} in force: {counted(targets, 'target')}",
            }
        )

    def license_changed(self, term: Term, validity: Validity) -> None:
        entitlement = {"entitlement": term.entitlement} if term.entitlement else {}
        self._tell(
            {
                "type": "license",
                "time": events.now_text(),
                "license": term.license,
                **entitlement,
                **term.fields(validity),
                "rule": str(term.place),
                "message": term.said(validity),
            }
        )

    def policy_refused(self, why: str) -> None:
        is_last_good = self._keeper.is_last_good
        stays = "the last good policy is in force" if is_last_good else "the policy in force stays"
        event = {"type": "policy_error", "time": events.now_text(), "message": f"{stays}: {why}"}
        if is_last_good:
            self._log.write(event)  # a trouble, which the log has told already
        else:
            self._tell(event)

    def mode(self, event: Event) -> None:
        """Somebody changed a mode, or an override has ended."""
        self._tell(event)

    def started(self, view: Agent) -> None:
        status = view.status()
        self._log.write({"type": "started", "time": events.now_text(), "version": status["version"]})
        gates = ", ".join(gate["gate"] for gate in status["gates"] if gate["attached_to"])
        refusing = f"refusing: {gates}" if gates else "nothing is refused"
        self._say(f"licet {status['version']} watches {status['scope']['cgroup']} ({refusing})")
        width = max(len(hook["hook"]) for hook in status["hooks"])
        for hook in status["hooks"]:
            self._say(f"  {hook['hook']:{width}} {hook['rung']}")
        if any(hook["rung"] == "none" for hook in status["hooks"]):
            self._say("  (what this kernel lacks, and what follows: licet status, licet doctor)")
        self._say_listeners(view)
        self._say(f"metrics: http://{status['listen']}/metrics")

    def edges(self, view: Agent) -> None:
        """The busiest connections that no service declares, while they are being aggregated."""
        policy = self._keeper.policy
        declared = policy.ports if policy else Ports()  # edges from before a policy declared them are kept
        edges = [edge for edge in view.edges(EDGES_KEPT) if edge["port"] not in declared]
        edges = edges[:EDGES_SHOWN]
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
        self._say(f"{counted(len(rows), 'listener')}:")
        for one in rows:
            owner = serving_process(one.listener)
            name = f"{owner.comm}[{owner.pid}]" if owner else "?"
            where = place(show_address(one.listener.address), one.listener.port)
            # what a policy declares, it judges itself
            looks_internal = one.catalog and not one.service and one.bind in ("any", "public")
            mark = "  looks internal and listens wide" if looks_internal else ""
            guess = f"looks like {one.catalog.partition(':')[0]}" if one.catalog else ""
            what = f"{one.service or guess}{mark}"
            line = f"  {one.listener.protocol.name:3} {where:28} {one.bind:9} {name:24} {what}"
            self._say(line.rstrip())

    def stopped(self) -> None:
        self._log.write({"type": "stopped", "time": events.now_text()})
        self._say("stopped; programs and counters stay in the kernel (licet unload lets go of them)")
