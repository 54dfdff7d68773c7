"""Times of validity windows, as CLOCK_BOOTTIME."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.model import HostFacts
from agent.policy.tables.shape import NO_BOOT_NS
from agent.policy.values import Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Windows:
    """Times of windows as CLOCK_BOOTTIME. Cached, because thousands of grants share few windows."""

    def __init__(self, facts: HostFacts) -> None:
        """Beginnings go by the later of license time and the wall clock, the rest by license time."""
        self._offset_ns = facts.boot_offset_ns
        self._start_offset_ns = facts.start_offset_ns
        self._known: dict[Window, tuple[int, int, int]] = {}

    def boot_ns(self, window: Window) -> tuple[int, int, int]:
        """(from, expires, ends)"""
        known = self._known.get(window)
        if known is None:
            known = (
                _boot_ns(window.starts_at, self._start_offset_ns) if window.starts_at else 0,
                _boot_ns(window.expires_at, self._offset_ns) if window.expires_at else NO_BOOT_NS,
                _boot_ns(window.ends_at, self._offset_ns) if window.ends_at else NO_BOOT_NS,
            )
            self._known[window] = known
        return known


def _boot_ns(when: datetime, offset_ns: int) -> int:
    return min(max(unix_ns(when) - offset_ns, 0), NO_BOOT_NS)


def moment(unix_ns: int) -> datetime:
    """A time in nanoseconds since the epoch, rounded down to the microsecond."""
    return _EPOCH + timedelta(microseconds=unix_ns // 1000)


def unix_ns(when: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond (the resolution of datetime)."""
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
