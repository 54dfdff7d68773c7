"""Notices at once that the wall clock was set: a timer that the kernel cancels then (timerfd_create(2)).

The kernel also cancels it at the end of a suspend. Slewing does not. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import time
from functools import cache

_TFD_TIMER_ABSTIME = 1
_TFD_TIMER_CANCEL_ON_SET = 2  # linux/timerfd.h; Python has neither of them before 3.13
_FAR_S = 1 << 40
"""A time that does not come. The kernel makes it the latest one that it knows."""


class _Timespec(ctypes.Structure):
    _fields_ = (("seconds", ctypes.c_long), ("ns", ctypes.c_long))


class _Itimerspec(ctypes.Structure):
    _fields_ = (("interval", _Timespec), ("value", _Timespec))


class ClockSet:
    """A descriptor that becomes readable when the wall clock is set. Where the kernel has none, `fileno()` is
    None, and whoever asks looks at the clock from time to time."""

    def __init__(self) -> None:
        self._descriptor = _armed()

    def fileno(self) -> int | None:
        return self._descriptor

    def was_set(self) -> bool:
        """True if the clock was set since the last call. Never blocks."""
        if self._descriptor is None:
            return False
        try:
            os.read(self._descriptor, 8)
        except BlockingIOError:
            return False
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
        _arm(self._descriptor)
        return True

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _armed() -> int | None:
    try:
        descriptor = int(_libc().timerfd_create(time.CLOCK_REALTIME, os.O_NONBLOCK | os.O_CLOEXEC))
    except AttributeError:  # a C library without it
        return None
    if descriptor < 0:
        return None
    if not _arm(descriptor):
        os.close(descriptor)
        return None
    return descriptor


def _arm(descriptor: int) -> bool:
    far = _Itimerspec(value=_Timespec(_FAR_S, 0))
    flags = _TFD_TIMER_ABSTIME | _TFD_TIMER_CANCEL_ON_SET
    return int(_libc().timerfd_settime(descriptor, flags, ctypes.byref(far), None)) == 0


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
