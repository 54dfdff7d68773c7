"""What time it is for license documents."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from agent.license.standing import Moment
from agent.observe.clock import DeadlineClock, boot_offset_ns
from agent.system.boottime import boot_ns


@dataclass(frozen=True, slots=True)
class LicenseTime:
    clock: DeadlineClock

    def moment(self) -> Moment:
        """License time and the wall clock, now."""
        now_ns = boot_ns()
        return Moment(_at(now_ns + self.clock.offset_ns()), _at(now_ns + boot_offset_ns()))


def _at(unix_ns: int) -> datetime:
    return datetime.fromtimestamp(unix_ns / 1e9, UTC)
