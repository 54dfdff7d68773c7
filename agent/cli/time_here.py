"""License time of this host, for commands that judge without a running agent."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from agent.cli.running import settings_of
from agent.daemon.licensing.time import LicenseTime
from agent.license.clock import LicenseClock, Moment
from agent.policy.tables.windows import unix_ns


def license_clock(config: Path | None) -> LicenseClock:
    """License time as a daemon that starts now would have it. Only root can read what an earlier one stored;
    for other users it is the wall clock, or the release date if that is later."""
    return LicenseTime(settings_of(config).paths.state).now


def moment_here(config: Path | None) -> Moment:
    clock = license_clock(config)
    return clock.moment(clock.boot_ns)


def asked_time(at: datetime | None, config: Path | None) -> tuple[int, int]:
    """(time to judge at in ns, lead of the wall clock in ns): the given time, or now."""
    if at is not None:
        return unix_ns(at), 0
    now = moment_here(config)
    return unix_ns(now.license), unix_ns(now.later) - unix_ns(now.license)
