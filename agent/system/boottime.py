"""The clock of the kernel side: CLOCK_BOOTTIME, which goes on while the host sleeps and which nobody sets."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Nanoseconds since the host was started."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
