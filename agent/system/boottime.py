"""CLOCK_BOOTTIME, the clock of the kernel programs. It runs while the host sleeps, and cannot be set."""

from __future__ import annotations

import time


def boot_ns() -> int:
    """Nanoseconds since the host booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)
