"""Limits the free memory that the C library keeps."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""Parameters of mallopt(3)."""
_GIVEN_BACK_BYTES = 128 * 1024


def give_memory_back() -> None:
    """Use one heap for all threads, and return large freed blocks to the kernel.

    By default, glibc uses an arena for each thread and growing thresholds. It then keeps several times the
    memory that was ever in use."""
    with contextlib.suppress(AttributeError):  # another C library has no mallopt
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _GIVEN_BACK_BYTES)
