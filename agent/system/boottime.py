"""CLOCK_BOOTTIME, the clock of the kernel programs. It runs while the host sleeps, and cannot be set."""

from __future__ import annotations

import time
from pathlib import Path

_CLOSE_NS = 100_000
_MOST_READS = 10


def boot_ns() -> int:
    """Nanoseconds since the host booted."""
    return time.clock_gettime_ns(time.CLOCK_BOOTTIME)


def boot_id() -> str:
    """The kernel's random id of this boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def clocks() -> tuple[int, int]:
    """(CLOCK_BOOTTIME, wall clock in UTC since the epoch) at one instant, in ns.

    A process that is stopped between two reads would see the clocks apart. So the closest of several reads
    counts. The boot clock is read last: the wall clock may seem late, never early."""
    best: tuple[int, int, int] | None = None
    for _ in range(_MOST_READS):
        before_ns = boot_ns()
        wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
        after_ns = boot_ns()
        if best is None or after_ns - before_ns < best[0]:
            best = after_ns - before_ns, after_ns, wall_ns
        if best[0] <= _CLOSE_NS:
            break
    assert best is not None
    return best[1], best[2]
