"""/metrics: families over a snapshot. docs/metrics.md is the contract of names and labels.

Up to MOST_WITH_ZEROS targets, all series of a target exist from the start, at zero."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prometheus_client import ProcessCollector

from agent.abi import GATES
from agent.export.agent_port import TROUBLES, Agent, Snapshot
from agent.export.families import Collector, Family, counter, gauge, of
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
MOST_WITH_ZEROS = 500
"""In a policy with more targets, a series with labels besides those of its target exists from its first count
on. 4,000 targets would have 220,000 series, nearly all of them zero."""


class Metrics:
    """The families of each scrape. Not thread-safe."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._process = ProcessCollector(registry=None)
        """process_*: what the agent itself uses."""
        self._listened: dict[tuple[str, ...], int] = {}
        """Series of listeners that have been above zero, which stay."""

    def families(self) -> Iterator[Collector]:
        snapshot = self._agent.snapshot()
        yield from _usage(snapshot)
        yield from _flows(snapshot)
        yield self._listeners(snapshot)
        yield from _exposures(snapshot)
        yield from licenses(snapshot.licenses, snapshot.license_time_offset_s)
        yield from modes(snapshot)
        yield from policy(snapshot)
        yield from _self(snapshot)
        yield self._process

    def _listeners(self, snapshot: Snapshot) -> Family:
        family = gauge(
            "licet_listeners",
            "Listening sockets by service (empty: undeclared), by how wide they listen, and by state.",
        )
        services = {"", *(target.service for target in snapshot.targets)}
        self._listened = {series: 0 for series in self._listened if series[0] in services}
        now = {(*place, state.value): n for (*place, state), n in snapshot.listeners.items()}
        counts = dict.fromkeys(_listener_series(snapshot), 0) | self._listened | now
        self._listened |= now
        for (service, bind, state), count in counts.items():
            family.add({"service": service, "bind": bind, "state": state}, count)
        return family


def _has_zeros(snapshot: Snapshot) -> bool:
    return len(snapshot.targets) <= MOST_WITH_ZEROS


def _counts(
    snapshot: Snapshot, counts: Mapping[Any, int], rests: Iterable[tuple[Any, ...]]
) -> Iterator[tuple[Target, Any, int]]:
    """(target, rest of the key, count). `rests`: those of the series that exist at zero."""
    if not _has_zeros(snapshot):
        yield from ((target, rest, count) for (target, *rest), count in counts.items() if count)
        return
    rests = tuple(rests)
    for target in _known(snapshot, (key[0] for key in counts)):
        yield from ((target, rest, counts.get((target, *rest), 0)) for rest in rests)


def _known(snapshot: Snapshot, *keyed: Iterable[Target]) -> list[Target]:
    """The targets of the policy, and targets of an earlier policy that still have counts: a counter never
    disappears."""
    return list(dict.fromkeys([*snapshot.targets, *(target for targets in keyed for target in targets)]))


def _usage(snapshot: Snapshot) -> Iterator[Family]:
    connections = counter(
        "licet_connections",
        "Attempts to use a declared port, judged once each: at connect() for consumers on this host, at the "
        "completed handshake for remote ones.",
    )
    each = [(origin, decision) for origin in Origin for decision in Decision]
    for target, (origin, decision), count in _counts(snapshot, snapshot.connections, each):
        more = {"origin": origin.name.lower(), "decision": decision.name.lower()}
        connections.add(of(target) | more, count)
    yield connections
    yield _unresolved(snapshot)
    yield _violations(snapshot)
    yield _refused(snapshot)
    by_consumer = counter(
        "licet_violations_by_consumer",
        "Denied attempts by container, unit or executable of the consumer; at most 100, the rest is other.",
    )
    counts: Counter[tuple[str, str]] = Counter()  # summed: two names may be equal once made printable
    for (service, consumer), count in snapshot.violations_by_consumer.items():
        counts[service, printable(consumer)] += count
    for (service, consumer), count in counts.items():
        by_consumer.add({"service": service, "consumer": consumer}, count)
    yield by_consumer
    unprotected = counter(
        "licet_unprotected_connections",
        "Connections to ports no service declares: outbound at connect(), inbound when established.",
    )
    for direction in ("outbound", "inbound"):
        unprotected.add({"direction": direction}, snapshot.unprotected.get(direction, 0))
    yield unprotected


def _unresolved(snapshot: Snapshot) -> Family:
    family = counter(
        "licet_unresolved_connections",
        "Attempts whose consumer could be licensed, but was not known well enough; "
        "licet_connections_total counts them too.",
    )
    each = ((Decision.ALLOWED,), (Decision.DENIED,))
    for target, (decision,), count in _counts(snapshot, snapshot.unresolved, each):
        family.add(of(target) | {"decision": decision.name.lower()}, count)
    return family


def _violations(snapshot: Snapshot) -> Family:
    family = counter(
        "licet_violations",
        "Violations by reason: denied attempts, counted as in licet_connections_total; listeners that should "
        "not be there, counted when found; exposures, counted per peer outside the listening scope.",
    )
    counts = dict(snapshot.listener_violations)
    for (target, reason), n in snapshot.violations.items():
        counts[(target.service, target.port_class.value, reason)] = n
    if _has_zeros(snapshot):
        reasons = [reason.name.lower() for reason in DENYING] + [state.value for state in LISTENER_VIOLATIONS]
        for target in snapshot.targets:
            for reason in reasons:
                counts.setdefault((target.service, target.port_class.value, reason), 0)
    counts.setdefault(("", "", ListenerState.UNDECLARED.value), 0)
    for (service, port_class, reason), n in sorted(counts.items()):
        family.add({"service": service, "port_class": port_class, "reason": reason}, n)
    return family


def _refused(snapshot: Snapshot) -> Family:
    family = counter(
        "licet_refused",
        "Attempts refused by each gate; the socket gate, a backstop, may count an attempt more than once.",
    )
    for target, (gate,), count in _counts(snapshot, snapshot.refused, ((gate,) for gate in GATES)):
        family.add(of(target) | {"gate": gate}, count)
    return family


def _flows(snapshot: Snapshot) -> Iterator[Family]:
    active = gauge("licet_active_connections", "Flows to a declared port that are open now.")
    opened = counter("licet_flows_opened", "Attempts that became a connection, when established.")
    closed = counter("licet_flows_closed", "Flows that ended, when their socket closed.")
    for target in _known(snapshot, snapshot.opened, snapshot.closed, snapshot.active):
        labels = of(target)
        active.add(labels, snapshot.active.get(target, 0))
        opened.add(labels, snapshot.opened.get(target, 0))
        closed.add(labels, snapshot.closed.get(target, 0))
    yield from (active, opened, closed)


def _exposures(snapshot: Snapshot) -> Iterator[Family]:
    exposures = gauge(
        "licet_exposures",
        "Listeners of a declared port that can be reached from outside their listening scope.",
    )
    unserved = gauge("licet_unserved_ports", "Declared ports, or ranges, that no listener here serves.")
    for target in snapshot.targets:
        labels = of(target)
        exposures.add(labels, snapshot.exposures.get(target, 0))
        unserved.add(labels, snapshot.unserved.get(target, 0))
    yield from (exposures, unserved)


def _listener_series(snapshot: Snapshot) -> Iterator[tuple[str, ...]]:
    """Series that exist at 0, so that a service without a listener shows as 0 and not as missing."""
    for bind in BINDS:
        yield "", bind, ListenerState.UNDECLARED.value
    if not _has_zeros(snapshot):
        return
    for service in dict.fromkeys(target.service for target in snapshot.targets):
        for bind in BINDS:
            for state in (ListenerState.DECLARED, ListenerState.OWNER_UNKNOWN, *LISTENER_VIOLATIONS):
                yield service, bind, state.value


def _self(snapshot: Snapshot) -> Iterator[Family]:
    lost = counter(
        "licet_events_lost",
        "Losses by cause: what could not be reported, named or followed; other counters stay exact.",
    )
    for cause, count in snapshot.events_lost.items():
        lost.add({"cause": cause}, count)
    yield lost
    entries = gauge("licet_map_entries", "Entries in a kernel map.")
    capacity = gauge("licet_map_capacity", "Entries a kernel map has room for.")
    for name, use in snapshot.maps.items():
        entries.add({"map": name}, use.entries)
        capacity.add({"map": name}, use.capacity)
    yield from (entries, capacity)
    if snapshot.programs:
        runs = counter("licet_bpf_program_runs", "Runs of a kernel program.")
        seconds = counter("licet_bpf_program_run_seconds", "Time spent in a kernel program.")
        for name, cost in snapshot.programs.items():
            runs.add({"program": name}, cost.runs)
            seconds.add({"program": name}, cost.run_ns / 1e9)
        yield from (runs, seconds)
    troubles = gauge("licet_trouble", "1 while something is wrong with the agent, by cause.")
    for cause in TROUBLES:
        troubles.add({"cause": cause}, int(bool(snapshot.troubles.get(cause))))
    yield troubles
    hooks = gauge("licet_hook_info", "The attach method (rung) of each hook on this kernel.")
    for hook, rung in snapshot.hooks.items():
        hooks.add({"hook": hook, "rung": rung}, 1)
    yield hooks
    build = gauge("licet_build_info", "The version that runs.")
    build.add({"version": snapshot.version}, 1)
    yield build
