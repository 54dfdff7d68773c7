"""Uses: turns the kernel's rows into events, one first and summaries later, and into counts by consumer.

Only the kernel counts; this module reads. A lost event therefore costs a line, never a count."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent import abi
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.consumers import OTHER, ConsumerLabels, Consumers
from agent.daemon.tracking.past_uses import PastUse, PastUses, side_of
from agent.daemon.tracking.resolution import Resolution
from agent.kernel.tables import ring
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import Use, process_of, use_from_event, use_of
from agent.model import Decision, Origin, Process, Target, Verdict
from agent.policy.tables.ids import Ids

IDLE_NS = 600 * 1_000_000_000
"""Idle limit: a row without a new attempt for this long may be deleted."""
CROWDED_IDLE_NS = 10 * 1_000_000_000
"""Idle limit once more than half the rows of one side or share are in use.

When all are in use, new consumers are not named one by one, so rows must be freed quickly in a flood of
short-lived consumers."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One consumer's use of one target, as events report it."""

    use: Use
    target: Target
    consumer: Process | None
    new: int
    """Attempts since the last report."""
    since_boot_ns: int
    is_first: bool = True
    """True if no attempt of this row was reported before."""
    resolved: Verdict | None = None
    """For a first attempt that was unresolved: the verdict with the consumer known."""


class Usage:
    """Rows of uses. The first attempt of each row is a record of its own; later attempts are summarised."""

    def __init__(
        self,
        counters: Counters,
        names: Names,
        attributor: Attributor,
        ids: Ids,
        resolution: Resolution,
    ) -> None:
        self._counters = counters
        self._names = names
        self._attributor = attributor
        self._ids = ids
        self._resolution = resolution
        self._consumers = Consumers(attributor)
        self._told: dict[bytes, tuple[int, int]] = {
            key: abi.TOLD.unpack(value) for key, value in counters.told.items()
        }
        """By row: (attempts reported, time of the last report)."""
        self._rowless: set[bytes] = set()
        """Keys remembered here that had no row when the rows were last read."""
        self._awaited: set[bytes] = set()
        """Rows whose first attempt had been sent but not read when the rows were last read."""
        self._rows: Counter[int] = Counter()
        """Number of rows at the last read, by place in the kernel's counts of rows."""
        self._labels = ConsumerLabels()
        self._retired: Counter[tuple[str, str]] = Counter()
        self._past = PastUses()
        """Uses whose rows were deleted."""
        self._moving = threading.Lock()
        """Held while a row moves to the retired counts, and while a thread adds up both."""

    def first_attempt(self, event: abi.UseEvent) -> Attempt | None:
        """The attempt that the kernel sent when a consumer first met a decision. None if it was reported
        already, since two CPUs may both send it."""
        key = bytes(event.key)
        target = self._ids.target_named(event.key.target)
        if key in self._told or target is None:
            return None
        seen = process_of(event.consumer, self._names)
        consumer = None
        if seen is not None:
            consumer = self._attributor.complete(
                seen,
                comm=event.comm.decode("utf-8", "surrogateescape"),
                args=ring.args_of(event),
                gids=event.gids[: event.groups],
            )
        if event.key.use_of == abi.UseOf.ONE:
            self._consumers.remember(key, consumer)
        self._note_told(key, 1, event.header.time_ns)
        use = use_from_event(event, seen)
        resolved = self._resolution.of(use, consumer)
        return Attempt(use, target, consumer, 1, event.header.time_ns, resolved=resolved)

    def look(self, now_boot_ns: int) -> Iterator[Attempt | None]:
        """Row by row, attempts since the last report, including those that the ring lost; None for a row
        without any.

        Idle rows are deleted. Between two rows, first attempts may be read, and programs go on."""
        idle, awaited, rows = [], set(), Counter[int]()
        since = self._counters.noted_uses()
        rowless = set(self._told) | self._consumers.keys()
        for use in self.rows():
            rowless.discard(use.key)
            if use.first_boot_ns <= now_boot_ns:  # a later row is in the count of rows made since
                rows.update(_places(use))
            attempt = None
            told, last_told = self._told.get(use.key, (0, use.first_boot_ns))
            target = self._ids.target_named(use.verdict.target)
            if not told and use.told and use.key not in self._awaited:
                awaited.add(use.key)  # its event is about to be read
            elif target is not None and use.attempts > told:
                self._note_told(use.key, use.attempts, now_boot_ns)
                new = use.attempts - told
                consumer = self._consumers.of(use)
                resolved = None if told else self._resolution.of(use, consumer)
                attempt = Attempt(use, target, consumer, new, last_told, not told, resolved)
            elif now_boot_ns - use.last_boot_ns > self._idle_ns(use):
                idle.append(use)
            yield attempt
        self._awaited = awaited
        for key in rowless & self._rowless:
            self._forget(key)
        self._rowless = rowless
        for use in idle:
            if self._let_go(use):
                rows.subtract(_places(use))
            yield None
        self._rows = rows
        self._counters.note_uses(rows, since)

    def _let_go(self, use: Use) -> bool:
        """Delete an idle row. False if attempts were added since it was read, or a thread is adding up."""
        if not self._moving.acquire(blocking=False):
            return False  # a thread is adding up; try again at the next look
        try:
            now = self._counters.uses.get(use.key)
            if now is None or abi.Use.from_buffer_copy(now).attempts != use.attempts:
                return False
            self._retire(use)
            return True
        finally:
            self._moving.release()

    def _idle_ns(self, use: Use) -> int:
        side, *share = _places(use)
        crowded = self._rows[side] > abi.USES_OF_SIDE // 2 or any(
            self._rows[one] > abi.USES_OF_SHARE // 2 for one in share
        )
        return CROWDED_IDLE_NS if crowded else IDLE_NS

    def _note_told(self, key: bytes, attempts: int, time_ns: int) -> None:
        self._told[key] = (attempts, time_ns)
        with contextlib.suppress(OSError):  # no room: a restarted daemon reports it once more
            self._counters.told.put(key, abi.TOLD.pack(attempts, time_ns))

    def rows(self) -> Iterator[Use]:
        return (use_of(key, value, self._names) for key, value in self._counters.uses.items())

    def _retire(self, use: Use) -> None:
        if use.verdict.decision is Decision.DENIED:
            self._retired[self._label(use)] += use.attempts
        if (past := self._as_past(use)) is not None:
            self._past.add(past)
        self._counters.uses.remove(use.key)
        self._forget(use.key)

    def _forget(self, key: bytes) -> None:
        """Delete what is stored for a row. The row may be missing: its event was read after it was deleted,
        or a daemon ended in between."""
        self._consumers.forget(key)
        self._told.pop(key, None)
        self._counters.told.remove(key)

    def found(self, target: Target, decision: Decision, consumer: Process | None) -> None:
        """Count an attempt older than the agent, which has no row."""
        if decision is Decision.DENIED:
            with self._moving:
                self._retired[target.service, self._labels.of(consumer)] += 1

    def consumers(self) -> list[Process]:
        """Consumers on this host of the rows that exist."""
        found = (self._consumers.of(use) for use in self.rows() if use.use_of is abi.UseOf.ONE)
        return [consumer for consumer in found if consumer]

    def since(self, boot_ns: int) -> list[PastUse]:
        """Uses with an attempt since that time, at most an hour ago."""
        found = [*self._past, *self._of_rows()]
        return [one for one in found if one.use.last_boot_ns >= boot_ns]

    def to_keep(self, since_boot_ns: int) -> tuple[list[PastUse], list[PastUse]]:
        """(uses whose rows were deleted, uses that have rows), to be stored for a later daemon.

        Rows outlive this daemon, but the known facts of their consumers do not."""
        self._past.forget_before(since_boot_ns)
        rows = PastUses()
        for one in self._of_rows():
            if one.use.last_boot_ns >= since_boot_ns and rows.has_room(one):
                rows.add(one)
        return list(self._past), list(rows)

    def restore(self, gone: Iterable[PastUse], rows: Iterable[PastUse]) -> None:
        """Add the uses that an earlier daemon stored. A row may be gone by now."""
        for one in gone:
            self._past.add(one)
        for one in rows:
            if self._counters.uses.get(one.use.key) is None:
                self._past.add(one)
            elif one.use.use_of is abi.UseOf.ONE:
                self._consumers.restore(one.use.key, one.consumer)

    def _of_rows(self) -> Iterator[PastUse]:
        found = (self._as_past(use) for use in self.rows())
        return (one for one in found if one is not None)

    def _as_past(self, use: Use) -> PastUse | None:
        target = self._ids.target_named(use.verdict.target)
        return None if target is None else PastUse(use, target, self._consumers.of(use))

    def violations_by_consumer(self) -> Mapping[tuple[str, str], int]:
        """Denied attempts by (service, consumer name). The first consumers seen keep their names, so that no
        series shrinks; the rest are `other`."""
        with self._moving:
            found = Counter(self._retired)
            for key, value in self._counters.uses.items():
                if abi.UseKey.from_buffer_copy(key).decision == Decision.DENIED:
                    use = use_of(key, value, self._names)
                    found[self._label(use)] += use.attempts
        return found

    def _label(self, use: Use) -> tuple[str, str]:
        target = self._ids.target_named(use.verdict.target)
        if use.use_of is abi.UseOf.ONE or use.origin is Origin.REMOTE:
            label = self._labels.of(self._consumers.of(use))
        else:
            label = OTHER
        return (target.service if target else "", label)


def _places(use: Use) -> tuple[int, ...]:
    """Where the kernel counts the use's row. A row of a version before shares has no share."""
    return (side_of(use), use.share) if use.share else (side_of(use),)
