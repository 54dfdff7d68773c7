"""License time of this host, for commands that judge without a running agent."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from agent.cli.running import settings_of
from agent.daemon.licensing.time import LicenseTime
from agent.license.clock import LicenseClock, Moment
from agent.policy.tables.windows import unix_ns
from agent.state_files import kept_time

_SAME = timedelta(seconds=1)
"""Both clocks are never read at quite the same time."""


def license_clock(config: Path | None) -> LicenseClock:
    """License time as a daemon that starts now would have it. Only root can read what an earlier one stored;
    for other users it is the wall clock, or the release date if that is later."""
    return LicenseTime(settings_of(config).paths.state).now


def moment_here(config: Path | None) -> Moment:
    clock = license_clock(config)
    return clock.moment(clock.boot_ns)


def clock_of(state: Path, moment: Moment) -> str:
    """The clock by which a command without a running agent says that it is `moment`. `state`: paths.state."""
    if _is_stored(state):
        return "license time"
    is_behind = moment.license - moment.wall > _SAME
    return "the release date of this version" if is_behind else "the wall clock"


def _is_stored(state: Path) -> bool:
    """True if a daemon has stored license time, and this user can read it."""
    try:
        return kept_time(state) is not None and not LicenseTime(state).damage
    except (OSError, ValueError):
        return False


@dataclass(frozen=True, slots=True)
class JudgedAt:
    """The time at which a command judges. `wall_lead_ns`: wall clock minus license time, if it is ahead."""

    time: datetime
    wall_lead_ns: int = 0

    @property
    def ns(self) -> int:
        return unix_ns(self.time)


def asked_time(at: datetime | None, config: Path | None) -> JudgedAt:
    """The given time, or now by license time."""
    if at is not None:
        return JudgedAt(at)
    now = moment_here(config)
    return JudgedAt(now.license, unix_ns(now.later) - unix_ns(now.license))
