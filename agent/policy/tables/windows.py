"""Times of validity windows, as CLOCK_BOOTTIME."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from agent.policy.tables.shape import NO_BOOT_NS
from agent.policy.values import Window

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Windows:
    """Times of windows as CLOCK_BOOTTIME. Cached, because thousands of grants share few windows."""

    def __init__(self, boot_offset_ns: int) -> None:
        self._offset_ns = boot_offset_ns
        self._known: dict[Window, tuple[int, int, int]] = {}

    def boot_ns(self, window: Window) -> tuple[int, int, int]:
        """(from, expires, ends)"""
        known = self._known.get(window)
        if known is None:
            known = (
                self._at(window.starts_at) if window.starts_at else 0,
                self._at(window.expires_at) if window.expires_at else NO_BOOT_NS,
                self._at(window.ends_at) if window.ends_at else NO_BOOT_NS,
            )
            self._known[window] = known
        return known

    def _at(self, when: datetime) -> int:
        return min(max(unix_ns(when) - self._offset_ns, 0), NO_BOOT_NS)


def unix_ns(when: datetime) -> int:
    """Nanoseconds since the epoch, exact to the microsecond (the resolution of datetime)."""
    return (when - _EPOCH) // timedelta(microseconds=1) * 1000
