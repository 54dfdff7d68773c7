"""Who used what: the kernel's rows turned into events, sent once and then summarised, and into counts by
consumer. The kernel counts; here it is only read, so a lost event costs a line, never a number."""

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
"""A row nobody has added to for so long may make room for another."""
CROWDED_IDLE_NS = 10 * 1_000_000_000
"""The same where more than half of the rows of one side, or of one share, are taken: who comes when all are
is not told one by one, so a flood of short-lived consumers must not hold them for long."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """One consumer's use of one target, as events tell it."""

    use: Use
    target: Target
    consumer: Process | None
    new: int
    """Attempts since it was last told."""
    since_boot_ns: int
    is_first: bool = True
    """None of this row was told before."""
    resolved: Verdict | None = None
    """Of a first one that was not resolved: what it would have met, had its consumer been known."""


class Usage:
    """Rows of uses: the first attempt of each is a record of its own, later ones are added up."""

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
        """By row: (attempts told, time of the last telling)."""
        self._rowless: set[bytes] = set()
        """Remembered here, and without a row when rows were last read."""
        self._awaited: set[bytes] = set()
        """Rows whose first attempt had been sent, and not read, when rows were last read."""
        self._rows: Counter[int] = Counter()
        """How many rows there were, by place in the kernel's counts of them."""
        self._labels = ConsumerLabels()
        self._retired: Counter[tuple[str, str]] = Counter()
        self._past = PastUses()
        """Of rows that were let go of."""
        self._moving = threading.Lock()
        """Held while a row moves to what was retired, and while a thread adds the two up."""

    def first_attempt(self, event: abi.UseEvent) -> Attempt | None:
        """What the kernel sent when a consumer first met a decision; None: told already (two CPUs may
        both have sent it)."""
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
        """Row by row, what was added since it was last told, and what the ring lost; None where nothing was.
        Idle rows are let go of. In between, first attempts may be taken, and programs go on."""
        idle, awaited, rows = [], set(), Counter[int]()
        since = self._counters.noted_uses()
        rowless = set(self._told) | self._consumers.keys()
        for use in self.rows():
            rowless.discard(use.key)
            if use.first_boot_ns <= now_boot_ns:  # later ones are what has been made since
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
        """Of an idle row, unless somebody has come back to it since it was read."""
        if not self._moving.acquire(blocking=False):
            return False  # somebody adds up: the next time will do
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
        with contextlib.suppress(OSError):  # no room: a restarted daemon tells it once more
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
        """What goes with a row. It may also be without one: an event that was read after the row was gone, a
        daemon that ended in between."""
        self._consumers.forget(key)
        self._told.pop(key, None)
        self._counters.told.remove(key)

    def found(self, target: Target, decision: Decision, consumer: Process | None) -> None:
        """An attempt from before the agent, which has no row."""
        if decision is Decision.DENIED:
            with self._moving:
                self._retired[target.service, self._labels.of(consumer)] += 1

    def consumers(self) -> list[Process]:
        """Those on this host, of the rows that are there."""
        found = (self._consumers.of(use) for use in self.rows() if use.use_of is abi.UseOf.ONE)
        return [consumer for consumer in found if consumer]

    def since(self, boot_ns: int) -> list[PastUse]:
        """Uses whose last attempt came after that, not longer ago than an hour."""
        found = [*self._past, *self._of_rows()]
        return [one for one in found if one.use.last_boot_ns >= boot_ns]

    def to_keep(self, since_boot_ns: int) -> tuple[list[PastUse], list[PastUse]]:
        """(those whose rows were let go of, those that have rows): what a later daemon has to be told. The
        rows outlive this one, but not what is known of their consumers."""
        self._past.forget_before(since_boot_ns)
        rows = PastUses()
        for one in self._of_rows():
            if one.use.last_boot_ns >= since_boot_ns and rows.has_room(one):
                rows.add(one)
        return list(self._past), list(rows)

    def restore(self, gone: Iterable[PastUse], rows: Iterable[PastUse]) -> None:
        """What an earlier daemon kept. A row may be gone by now."""
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
        """By (service, consumer name). The first consumers seen keep their names, so that no series
        shrinks; the rest are `other`."""
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
    """Where the kernel counts its row; no share: of a version before shares."""
    return (side_of(use), use.share) if use.share else (side_of(use),)
