"""/metrics: one collector over a snapshot. docs/metrics.md is the contract of names and labels. All series
of a target exist from the start, at zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator

from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from agent.abi import GATES
from agent.export.agent_port import TROUBLES, Agent, Snapshot
from agent.export.families import counter, gauge, of
from agent.export.license_metrics import licenses
from agent.export.policy_metrics import modes, policy
from agent.export.sanitize import printable
from agent.model import Decision, ListenerState, Origin, Reason, Target

DENYING = (
    Reason.EXCLUDED,
    Reason.NO_LICENSE,
    Reason.UNLICENSED_PRINCIPAL,
    Reason.UNRESOLVED,
    Reason.UNKNOWN_KEY,
    Reason.BAD_SIGNATURE,
    Reason.REVOKED,
    Reason.SUPERSEDED,
    Reason.NODE_MISMATCH,
    Reason.CLOCK_ROLLBACK,
    Reason.NOT_YET_VALID,
    Reason.EXPIRED,
)
"""The reasons for which this version can deny an attempt."""
LISTENER_VIOLATIONS = (ListenerState.OWNER_MISMATCH, ListenerState.EXPOSED)
BINDS = ("loopback", "private", "public", "any")


class _Collector(Collector):
    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    def collect(self) -> Iterator[Metric]:
        snapshot = self._agent.snapshot()
        yield from _usage(snapshot)
        yield from _flows(snapshot)
        yield from _listeners(snapshot)
        yield from licenses(snapshot.licenses, snapshot.license_time_offset_s)
        yield from modes(snapshot)
        yield from policy(snapshot)
        yield from _self(snapshot)


def registry(agent: Agent) -> CollectorRegistry:
    """A registry for this agent alone, with process_* beside licet_*."""
    made = CollectorRegistry()
    made.register(_Collector(agent))
    ProcessCollector(registry=made)
    return made


def _known(snapshot: Snapshot, *keyed: Iterable[Target]) -> list[Target]:
    """The targets of the policy, and targets of an earlier policy that still have counts: a counter never
    disappears."""
    return list(dict.fromkeys([*snapshot.targets, *(target for targets in keyed for target in targets)]))


def _usage(snapshot: Snapshot) -> Iterator[Metric]:
    connections = counter(
        "licet_connections",
        "Attempts to use a declared port, judged once each: at connect() for consumers on this host, at the "
        "completed handshake for remote ones.",
        ("service", "port_class", "origin", "decision"),
    )
    for target in _known(snapshot, (key[0] for key in snapshot.connections)):
        for origin in Origin:
            for decision in Decision:
                count = snapshot.connections.get((target, origin, decision), 0)
                connections.add_metric([*of(target), origin.name.lower(), decision.name.lower()], count)
    yield connections
    yield _unresolved(snapshot)
    yield _violations(snapshot)
    yield _refused(snapshot)
    by_consumer = counter(
        "licet_violations_by_consumer",
        "Denied attempts by container, unit or executable of the consumer; at most 100, the rest is other.",
        ("service", "consumer"),
    )
    counts: Counter[tuple[str, str]] = Counter()  # summed: two names may be equal once made printable
    for (service, consumer), count in snapshot.violations_by_consumer.items():
        counts[service, printable(consumer)] += count
    for labels, count in counts.items():
        by_consumer.add_metric(list(labels), count)
    yield by_consumer
    unprotected = counter(
        "licet_unprotected_connections",
        "Connections to ports no service declares: outbound at connect(), inbound when established.",
        ("direction",),
    )
    for direction in ("outbound", "inbound"):
        unprotected.add_metric([direction], snapshot.unprotected.get(direction, 0))
    yield unprotected


def _unresolved(snapshot: Snapshot) -> Metric:
    family = counter(
        "licet_unresolved_connections",
        "Attempts whose consumer could be licensed, but was not known well enough; "
        "licet_connections_total counts them too.",
        ("service", "port_class", "decision"),
    )
    for target in _known(snapshot, (key[0] for key in snapshot.unresolved)):
        for decision in (Decision.ALLOWED, Decision.DENIED):
            count = snapshot.unresolved.get((target, decision), 0)
            family.add_metric([*of(target), decision.name.lower()], count)
    return family


def _violations(snapshot: Snapshot) -> Metric:
    family = counter(
        "licet_violations",
        "Violations by reason: denied attempts, counted as in licet_connections_total; listeners that should "
        "not be there, counted when found; exposures, counted per peer outside the listening scope.",
        ("service", "port_class", "reason"),
    )
    counts = dict(snapshot.listener_violations)
    for (target, reason), n in snapshot.violations.items():
        counts[(target.service, target.port_class.value, reason)] = n
    reasons = [reason.name.lower() for reason in DENYING] + [state.value for state in LISTENER_VIOLATIONS]
    for target in snapshot.targets:
        for reason in reasons:
            counts.setdefault((target.service, target.port_class.value, reason), 0)
    counts.setdefault(("", "", ListenerState.UNDECLARED.value), 0)
    for labels, n in sorted(counts.items()):
        family.add_metric(list(labels), n)
    return family


def _refused(snapshot: Snapshot) -> Metric:
    family = counter(
        "licet_refused",
        "Attempts refused by each gate; the socket gate, a backstop, may count an attempt more than once.",
        ("service", "port_class", "gate"),
    )
    for target in _known(snapshot, (key[0] for key in snapshot.refused)):
        for gate in GATES:
            family.add_metric([*of(target), gate], snapshot.refused.get((target, gate), 0))
    return family


def _flows(snapshot: Snapshot) -> Iterator[Metric]:
    active = gauge(
        "licet_active_connections", "Flows to a declared port that are open now.", ("service", "port_class")
    )
    opened = counter(
        "licet_flows_opened",
        "Attempts that became a connection, when established.",
        ("service", "port_class"),
    )
    closed = counter(
        "licet_flows_closed", "Flows that ended, when their socket closed.", ("service", "port_class")
    )
    for target in _known(snapshot, snapshot.opened, snapshot.active):
        active.add_metric(of(target), snapshot.active.get(target, 0))
        opened.add_metric(of(target), snapshot.opened.get(target, 0))
        closed.add_metric(of(target), snapshot.closed.get(target, 0))
    yield from (active, opened, closed)


def _listeners(snapshot: Snapshot) -> Iterator[Metric]:
    listeners = gauge(
        "licet_listeners",
        "Listening sockets by service (empty: undeclared), by how wide they listen, and by state.",
        ("service", "bind", "state"),
    )
    counts = dict.fromkeys(_listener_series(snapshot), 0)
    counts.update({(*place, state.value): n for (*place, state), n in snapshot.listeners.items()})
    for labels, count in counts.items():
        listeners.add_metric(list(labels), count)
    yield listeners
    unserved = gauge(
        "licet_unserved_ports",
        "Declared ports, or ranges, that no listener here serves.",
        ("service", "port_class"),
    )
    exposures = gauge(
        "licet_exposures",
        "Listeners of a declared port that can be reached from outside their listening scope.",
        ("service", "port_class"),
    )
    for target in snapshot.targets:
        exposures.add_metric(of(target), snapshot.exposures.get(target, 0))
        unserved.add_metric(of(target), snapshot.unserved.get(target, 0))
    yield from (exposures, unserved)


def _listener_series(snapshot: Snapshot) -> Iterator[tuple[str, ...]]:
    """Series that exist at 0, so that a service without a listener shows as 0 and not as missing."""
    for bind in BINDS:
        yield "", bind, ListenerState.UNDECLARED.value
    for service in dict.fromkeys(target.service for target in snapshot.targets):
        for bind in BINDS:
            for state in (ListenerState.DECLARED, ListenerState.OWNER_UNKNOWN, *LISTENER_VIOLATIONS):
                yield service, bind, state.value


def _self(snapshot: Snapshot) -> Iterator[Metric]:
    lost = counter(
        "licet_events_lost",
        "Losses by cause: what could not be reported, named or followed; other counters stay exact.",
        ("cause",),
    )
    for cause, count in snapshot.events_lost.items():
        lost.add_metric([cause], count)
    yield lost
    entries = gauge("licet_map_entries", "Entries in a kernel map.", ("map",))
    capacity = gauge("licet_map_capacity", "Entries a kernel map has room for.", ("map",))
    for name, use in snapshot.maps.items():
        entries.add_metric([name], use.entries)
        capacity.add_metric([name], use.capacity)
    yield from (entries, capacity)
    if snapshot.programs:
        runs = counter("licet_bpf_program_runs", "Runs of a kernel program.", ("program",))
        seconds = counter("licet_bpf_program_run_seconds", "Time spent in a kernel program.", ("program",))
        for name, cost in snapshot.programs.items():
            runs.add_metric([name], cost.runs)
            seconds.add_metric([name], cost.run_ns / 1e9)
        yield from (runs, seconds)
    troubles = gauge("licet_trouble", "1 while something is wrong with the agent, by cause.", ("cause",))
    for cause in TROUBLES:
        troubles.add_metric([cause], int(bool(snapshot.troubles.get(cause))))
    yield troubles
    hooks = gauge(
        "licet_hook_info", "The attach method (rung) of each hook on this kernel.", ("hook", "rung")
    )
    for hook, rung in snapshot.hooks.items():
        hooks.add_metric([hook, rung], 1)
    yield hooks
    build = gauge("licet_build_info", "The version that runs.", ("version",))
    build.add_metric([snapshot.version], 1)
    yield build
