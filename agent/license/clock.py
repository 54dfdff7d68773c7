"""License time: runs on the boot clock, follows the wall clock forward with caution, and does not go back.

Pure: each look hands in the boot clock (CLOCK_BOOTTIME) and the wall clock (UTC since the epoch), both in ns.
License time is the boot clock plus an offset. docs/decisions/0031-license-time.md has the reasons."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from agent import RELEASED

SECOND_NS = 10**9
MINUTE_NS = 60 * SECOND_NS
HOUR_NS = 60 * MINUTE_NS
DAY_NS = 24 * HOUR_NS
ROLLBACK = timedelta(hours=24)
"""How far the wall clock may be behind license time for a strict document."""
TOLERANCE_NS = 5 * MINUTE_NS
"""A lead of the wall clock up to this is followed at once; a larger difference is reported."""
PROOF_NS = HOUR_NS
"""Boot time for which the wall clock must be ahead at every look before a larger lead is followed."""
LONGEST_LOOK_NS = 5 * MINUTE_NS
"""Time between two looks that still counts as observed. A longer gap counts nothing, and ends nothing."""
LATEST_NS = (1 << 63) - 1
RELEASED_NS = int(RELEASED.timestamp()) * SECOND_NS
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Moment:
    """What time it is: `wall` by the wall clock, `license` by license time."""

    license: datetime
    """Licenses expire and end by it."""
    wall: datetime

    @classmethod
    def of(cls, now: datetime) -> Moment:
        """A time on which both clocks agree."""
        return cls(now, now)

    @property
    def later(self) -> datetime:
        """Licenses begin by it."""
        return max(self.license, self.wall)

    @property
    def is_rolled_back(self) -> bool:
        """True if the wall clock is too far behind for a strict document."""
        return self.license - self.wall > ROLLBACK


@dataclass(frozen=True, slots=True)
class Observed:
    """An offset that waits for its proof, and the boot time for which looks have supported it."""

    offset_ns: int
    seen_ns: int = 0

    @property
    def is_proven(self) -> bool:
        return self.seen_ns >= PROOF_NS


@dataclass(frozen=True, slots=True)
class Steps:
    """Small steps forward within the last hour of boot time, by the minute in which they were made."""

    by_minute: tuple[tuple[int, int], ...] = ()
    """(minute of boot time, ns), oldest first."""

    def at(self, boot_ns: int) -> Steps:
        """The steps that still count. A minute counts until its last nanosecond is one hour old."""
        kept = tuple(one for one in self.by_minute if boot_ns < (one[0] + 1) * MINUTE_NS + HOUR_NS)
        return self if len(kept) == len(self.by_minute) else Steps(kept)

    @property
    def left_ns(self) -> int:
        """How far the clock may still step forward."""
        return max(0, TOLERANCE_NS - sum(ns for _, ns in self.by_minute))

    def with_step(self, boot_ns: int, step_ns: int) -> Steps:
        minute = boot_ns // MINUTE_NS
        if self.by_minute and self.by_minute[-1][0] == minute:
            return Steps((*self.by_minute[:-1], (minute, self.by_minute[-1][1] + step_ns)))
        return Steps((*self.by_minute, (minute, step_ns)))


@dataclass(frozen=True, slots=True)
class LicenseClock:
    """License time as of the last look. Values are replaced, never changed."""

    boot: str
    """Id of the boot in which the offsets hold."""
    boot_ns: int
    """Boot clock at the last look."""
    wall_offset_ns: int
    """Wall clock minus boot clock at the last look."""
    firm_offset_ns: int
    """Never decreases within a boot. The next boot continues from it."""
    taken: Observed | None = None
    """What this boot took from the wall clock, until it is proven or given up. Above the firm offset."""
    ahead: Observed | None = None
    """The least offset of the wall clock since it has been ahead of license time; None: it is not ahead."""
    steps: Steps = field(default=Steps())
    is_confirmed: bool = False
    """True if the wall clock agreed with license time, or was ahead of it, at a look of this boot."""

    @classmethod
    def started(cls, boot: str, boot_ns: int, wall_ns: int, least_ns: int = RELEASED_NS) -> LicenseClock:
        """The first look of a boot. `least_ns`: license time as stored by an earlier boot."""
        firm_ns = _bounded(max(least_ns, RELEASED_NS)) - boot_ns
        wall_offset_ns = _bounded(wall_ns) - boot_ns
        taken = Observed(wall_offset_ns) if wall_offset_ns > firm_ns else None
        return cls(boot, boot_ns, wall_offset_ns, firm_ns, taken)._confirmed()

    def resumed(self, boot: str, boot_ns: int, wall_ns: int) -> LicenseClock:
        """The first look of another run. In the same boot, license time continues whatever the wall clock
        says. A new boot continues from the firm time only."""
        if boot == self.boot and boot_ns >= self.boot_ns:
            return self.looked(boot_ns, wall_ns)
        return LicenseClock.started(boot, boot_ns, wall_ns, self.firm_offset_ns + self.boot_ns)

    def looked(self, boot_ns: int, wall_ns: int) -> LicenseClock:
        """The state after another look in the same boot."""
        elapsed_ns = boot_ns - self.boot_ns
        seen_ns = elapsed_ns if 0 < elapsed_ns <= LONGEST_LOOK_NS else 0
        now = replace(
            self,
            boot_ns=max(boot_ns, self.boot_ns),
            wall_offset_ns=_bounded(wall_ns) - boot_ns,
            steps=self.steps.at(boot_ns),
        )
        return now._taken_judged(seen_ns)._stepped()._led(seen_ns)._confirmed()

    def _taken_judged(self, seen_ns: int) -> LicenseClock:
        """Prove what this boot took, or give it up if the wall clock was corrected back."""
        if self.taken is None:
            return self
        if self._is_corrected:
            taken = Observed(self.wall_offset_ns) if self.wall_offset_ns > self.firm_offset_ns else None
            return replace(self, taken=taken, ahead=None, is_confirmed=False)
        taken = replace(self.taken, seen_ns=self.taken.seen_ns + seen_ns)
        if taken.is_proven:
            return replace(self, firm_offset_ns=taken.offset_ns, taken=None)
        return replace(self, taken=taken)

    @property
    def _is_corrected(self) -> bool:
        """True if the wall clock is more than five minutes behind, and not evidently wrong itself."""
        wall_ns = self.wall_offset_ns + self.boot_ns
        return self.wall_offset_ns < self.offset_ns - TOLERANCE_NS and wall_ns >= RELEASED_NS

    def _stepped(self) -> LicenseClock:
        """Follow a small lead at once, as far as the hour's steps allow."""
        lead_ns = self.wall_lead_ns
        step_ns = min(lead_ns, self.steps.left_ns) if 0 < lead_ns <= TOLERANCE_NS else 0
        if not step_ns:
            return self
        return replace(
            self._moved(self.offset_ns + step_ns), steps=self.steps.with_step(self.boot_ns, step_ns)
        )

    def _led(self, seen_ns: int) -> LicenseClock:
        """Follow a larger lead by its least value, once every look of an hour has found one."""
        if self.wall_lead_ns <= 0:
            return replace(self, ahead=None)
        if self.ahead is None:
            return replace(self, ahead=Observed(self.wall_offset_ns))
        least_ns = min(self.ahead.offset_ns, self.wall_offset_ns)
        ahead = Observed(least_ns, self.ahead.seen_ns + seen_ns)
        if not ahead.is_proven:
            return replace(self, ahead=ahead)
        return replace(self._moved(max(least_ns, self.offset_ns)), ahead=None)._stepped()

    def _moved(self, offset_ns: int) -> LicenseClock:
        if self.taken is None:
            return replace(self, firm_offset_ns=offset_ns)
        return replace(self, taken=replace(self.taken, offset_ns=offset_ns))

    def _confirmed(self) -> LicenseClock:
        return (
            self
            if self.is_confirmed or self.wall_lead_ns < -TOLERANCE_NS
            else replace(self, is_confirmed=True)
        )

    @property
    def offset_ns(self) -> int:
        """License time minus the boot clock."""
        return self.firm_offset_ns if self.taken is None else self.taken.offset_ns

    @property
    def wall_lead_ns(self) -> int:
        """Wall clock minus license time."""
        return self.wall_offset_ns - self.offset_ns

    @property
    def is_off(self) -> bool:
        """True if the wall clock and license time differ by more than five minutes."""
        return abs(self.wall_lead_ns) > TOLERANCE_NS

    @property
    def strict_rollback(self) -> bool:
        """True if documents with `clock: strict` are denied."""
        return self.moment(self.boot_ns).is_rolled_back

    def moment(self, boot_ns: int) -> Moment:
        """The time at a reading of the boot clock, by the offsets of the last look."""
        return Moment(utc(boot_ns + self.offset_ns), utc(boot_ns + self.wall_offset_ns))

    @property
    def problem(self) -> str:
        """What is wrong while license time is off, and what follows; "" if it is not."""
        if not self.is_off:
            return ""
        lead = _shown(abs(self.wall_lead_ns))
        if self.wall_lead_ns < 0:
            return (
                f"the wall clock is {lead} behind license time: licenses expire by license time, which "
                "does not go back; set the clock right (timedatectl)"
            )
        return (
            f"the wall clock is {lead} ahead of license time: license time follows once the clock has been "
            "ahead for one hour; if the clock is wrong, set it right (timedatectl)"
        )


def utc(unix_ns: int) -> datetime:
    """A time in ns since the epoch as UTC; times that no host can have become the nearest one."""
    return _EPOCH + timedelta(microseconds=_bounded(unix_ns) // 1000)


def _bounded(unix_ns: int) -> int:
    return min(max(unix_ns, 0), LATEST_NS)


def _shown(length_ns: int) -> str:
    """In the largest unit of which there are at least two."""
    for unit_ns, name in ((DAY_NS, "days"), (HOUR_NS, "hours")):
        if length_ns >= 2 * unit_ns:
            return f"{round(length_ns / unit_ns):,} {name}"
    return f"{round(length_ns / MINUTE_NS)} minutes"
