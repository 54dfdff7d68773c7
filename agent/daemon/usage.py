"""Who used what: the kernel's rows turned into events, sent once and then summarised, and into counts by
consumer. The kernel counts; here it is only read, so a lost event costs a line, never a number."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from agent.kernel import abi, ring
from agent.kernel.maps import Counters
from agent.kernel.records import Names, Use, process_of, use_of, verdict_of
from agent.model import Decision, Origin, Process, Protocol, Reason, Target, show_address

NAMED_CONSUMERS = 100
OTHER = "other"
REMOTE = "remote"
IDLE_NS = 600 * 1_000_000_000
"""A row nobody has added to for so long may make room for another."""
CROWDED_IDLE_NS = 10 * 1_000_000_000
"""The same where more than half of the rows are taken: whoever comes when all are is counted, but not named,
so a flood of short-lived consumers must not hold them for long."""
REMEMBERED_NS = 3600 * 1_000_000_000
"""How long denied attempts are known by consumer after the last one, though their row was let go of."""
REMEMBERED = 2000


@dataclass(frozen=True, slots=True)
class Attempt:
    """One consumer's use of one target, as events tell it."""

    use: Use
    target: Target
    consumer: Process | None
    new: int
    """Attempts since it was last told."""
    since_boot_ns: int


@dataclass(frozen=True, slots=True)
class Denied:
    """Denied attempts of one consumer to one target."""

    consumer: str
    """As people know it: container, unit, executable, or the network of a remote one."""
    target: Target
    reason: Reason
    port: int
    """Of the first attempt."""
    attempts: int
    """Since `first_boot_ns`."""
    first_boot_ns: int
    last_boot_ns: int


def consumer_name(consumer: Process | None) -> str:
    """The label of licet_violations_by_consumer_total: bounded, and never an address or a path."""
    if consumer is None:
        return REMOTE
    container = consumer.container
    if container and container.known:  # its unit, where it has one, is docker-ID.scope
        return container.label
    executable = consumer.exe.rpartition("/")[2]
    return consumer.unit or (container and container.label) or executable or consumer.comm or "unknown"


class Usage:
    def __init__(
        self,
        counters: Counters,
        names: Names,
        complete: Callable[..., Process],
        target_named: Callable[[int], Target | None],
    ) -> None:
        self._counters = counters
        self._names = names
        self._complete = complete
        self._target_named = target_named
        self._consumers: dict[bytes, Process | None] = {}
        self._told: dict[bytes, tuple[int, int]] = {
            key: abi.TOLD.unpack(value) for key, value in counters.told.items()
        }
        """By row: (attempts told, time of the last telling)."""
        self._consumer_labels: dict[str, str] = {}
        self._retired: Counter[tuple[str, str]] = Counter()
        self._remembered: dict[tuple[str, Target, Reason, int], Denied] = {}
        """Of rows that were let go of; the longest ago first."""

    def first_attempt(self, event: abi.UseEvent) -> Attempt | None:
        """What the kernel sent when a consumer first met a decision; None: told already (two CPUs may
        both have sent it)."""
        key = bytes(event.key)
        target = self._target_named(event.key.target)
        if key in self._told or target is None:
            return None
        seen = process_of(event.consumer, self._names)
        consumer = None
        if seen is not None:
            consumer = self._complete(
                seen,
                comm=event.comm.decode("utf-8", "replace"),
                args=ring.args_of(event),
                gids=event.gids[: event.groups],
            )
        self._consumers[key] = consumer
        self._note_told(key, 1, event.header.time_ns)
        use = Use(
            key=key,
            attempts=1,
            verdict=verdict_of(event.verdict),
            origin=Origin(event.key.origin),
            protocol=Protocol(event.key.protocol),
            consumer=seen,
            comm=event.comm.decode("utf-8", "replace"),
            source=event.source.value(),
            source_port=event.source_port,
            destination=event.destination.value(),
            port=event.port,
            first_boot_ns=event.header.time_ns,
            last_boot_ns=event.header.time_ns,
            told=True,
        )
        return Attempt(use, target, consumer, new=1, since_boot_ns=event.header.time_ns)

    def repeats(self, now_boot_ns: int) -> Iterator[Attempt]:
        """What was added since it was last told, and what the ring lost; idle rows are let go of."""
        crowded = len(self._told) > self._counters.uses.max_entries // 2
        idle_ns = CROWDED_IDLE_NS if crowded else IDLE_NS
        idle = []
        for use in self.rows():
            told, since = self._told.get(use.key, (0, use.first_boot_ns))
            target = self._target_named(use.verdict.target)
            if target is not None and use.attempts > told:
                self._note_told(use.key, use.attempts, now_boot_ns)
                yield Attempt(use, target, self._consumer(use), use.attempts - told, since)
            elif now_boot_ns - use.last_boot_ns > idle_ns:
                idle.append(use)
        for use in idle:
            self._retire(use)

    def _note_told(self, key: bytes, attempts: int, time_ns: int) -> None:
        self._told[key] = (attempts, time_ns)
        self._counters.told.put(key, abi.TOLD.pack(attempts, time_ns))

    def rows(self) -> Iterator[Use]:
        return (use_of(key, value, self._names) for key, value in self._counters.uses.items())

    def _consumer(self, use: Use) -> Process | None:
        known = self._consumers.get(use.key)
        if known is None and use.consumer is not None:
            known = self._consumers[use.key] = self._complete(use.consumer, comm=use.comm)
        elif known is not None and not known.exe and use.consumer is not None and use.consumer.exe:
            # the name of the executable came after the event
            known = self._consumers[use.key] = replace(known, exe=use.consumer.exe)
        return known

    def _retire(self, use: Use) -> None:
        if use.verdict.decision is Decision.DENIED:
            self._retired[self._label(use)] += use.attempts
            self._remember(use)
        self._counters.uses.remove(use.key)
        self._consumers.pop(use.key, None)
        self._told.pop(use.key, None)
        self._counters.told.remove(use.key)

    def _remember(self, use: Use) -> None:
        denied = self._denied(use)
        if denied is None:
            return
        key = (denied.consumer, denied.target, denied.reason, denied.port)
        before = self._remembered.pop(key, None)
        if before is not None and denied.first_boot_ns - before.last_boot_ns < REMEMBERED_NS:
            denied = replace(
                denied,
                attempts=before.attempts + denied.attempts,
                first_boot_ns=min(before.first_boot_ns, denied.first_boot_ns),
                last_boot_ns=max(before.last_boot_ns, denied.last_boot_ns),
            )
        if len(self._remembered) >= REMEMBERED:
            self._remembered.pop(next(iter(self._remembered)), None)
        self._remembered[key] = denied

    def denied(self, since_boot_ns: int) -> list[Denied]:
        """Consumers whose last denied attempt came after that, not longer ago than REMEMBERED_NS. Rows that
        an earlier daemon has let go of are not among them."""
        found = list(self._remembered.copy().values())
        for key, value in self._counters.uses.items():
            if abi.UseKey.from_buffer_copy(key).decision == Decision.DENIED:
                denied = self._denied(use_of(key, value, self._names))
                if denied is not None:
                    found.append(denied)
        return [one for one in found if one.last_boot_ns >= since_boot_ns]

    def _denied(self, use: Use) -> Denied | None:
        target = self._target_named(use.verdict.target)
        if target is None:
            return None
        consumer = self._consumer(use)
        return Denied(
            consumer=consumer_name(consumer) if consumer else _network(use),
            target=target,
            reason=use.verdict.reason,
            port=use.port,
            attempts=use.attempts,
            first_boot_ns=use.first_boot_ns,
            last_boot_ns=use.last_boot_ns,
        )

    def violations_by_consumer(self) -> Mapping[tuple[str, str], int]:
        """By (service, consumer name). The first consumers seen keep their names, so that no series
        shrinks; the rest are `other`."""
        found = Counter(self._retired)
        for key, value in self._counters.uses.items():
            if abi.UseKey.from_buffer_copy(key).decision == Decision.DENIED:
                use = use_of(key, value, self._names)
                found[self._label(use)] += use.attempts
        return found

    def _label(self, use: Use) -> tuple[str, str]:
        target = self._target_named(use.verdict.target)
        name = consumer_name(self._consumer(use))
        if name not in self._consumer_labels:
            full = len(self._consumer_labels) >= NAMED_CONSUMERS
            self._consumer_labels[name] = OTHER if full else name
        return (target.service if target else "", self._consumer_labels[name])


def _network(use: Use) -> str:
    """The /24 or /64 that stands for a remote consumer."""
    address = abi.UseKey.from_buffer_copy(use.key).source.value()
    return f"{show_address(address)}/{24 if address.ipv4_mapped else 64}"
