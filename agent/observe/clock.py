"""The clock for deadlines of licenses: the wall clock as an offset to the time since boot."""

from __future__ import annotations

import ctypes as ct
import time
from collections.abc import Callable

from agent.system.boottime import boot_ns

_STA_UNSYNC = 0x40  # linux/timex.h
NOTICED_NS = 5_000_000_000


class _Timex(ct.Structure):
    """struct timex of linux/timex.h, up to the status."""

    _fields_ = [
        ("modes", ct.c_uint32),
        ("offset", ct.c_long),
        ("frequency", ct.c_long),
        ("max_error", ct.c_long),
        ("estimated_error", ct.c_long),
        ("status", ct.c_int),
        ("rest", ct.c_uint8 * 164),
    ]


def is_synchronised() -> bool:
    """True if a time service reports the clock as synchronised (adjtimex(2)). It is always False on a host
    whose time comes from its hypervisor or is set by hand. Setting the clock clears the flag until the
    next synchronisation."""
    about = _Timex()
    state = ct.CDLL(None).adjtimex(ct.byref(about))
    return state >= 0 and not about.status & _STA_UNSYNC


def boot_offset_ns() -> int:
    """Wall clock (UTC, ns since the epoch) minus CLOCK_BOOTTIME. The offset changes when the wall clock is
    set or slewed, by seconds or by nanoseconds."""
    before_ns = boot_ns()
    wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after_ns = boot_ns()
    return wall_ns - (before_ns + after_ns) // 2


class DeadlineClock:
    """Follows the wall clock until it has been synchronised in this boot, including that correction. From
    then on the offset never decreases. Otherwise setting the clock back would make an expired license
    valid again."""

    def __init__(
        self,
        newest_ns: int | None = None,
        *,
        read: Callable[[], int] = boot_offset_ns,
        is_synchronised: Callable[[], bool] = is_synchronised,
    ) -> None:
        """`newest_ns`: the value of an earlier daemon in this boot."""
        self.newest_ns = newest_ns
        """The largest offset since the clock was synchronised; None: it was not synchronised yet."""
        self._read = read
        self._is_synchronised = is_synchronised
        self._behind_ns = 0

    def offset_ns(self) -> int:
        # read first: a time service reports synchronisation only after it has corrected the clock
        synchronised = self.newest_ns is None and self._is_synchronised()
        now_ns = self._read()
        if self.newest_ns is None:
            self.newest_ns = now_ns if synchronised else None
            return now_ns
        self._behind_ns = self.newest_ns - now_ns
        self.newest_ns = max(self.newest_ns, now_ns)
        return self.newest_ns

    @property
    def problem(self) -> str:
        if self._behind_ns < NOTICED_NS:
            return ""
        return (
            f"the wall clock was set back by {self._behind_ns // 10**9} s: deadlines of licenses stay "
            "unchanged until the clock has caught up or the host is rebooted"
        )
