"""What the C library need not keep of memory that is free again."""

from __future__ import annotations

import contextlib
import ctypes

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
"""mallopt(3)."""
_GIVEN_BACK_BYTES = 128 * 1024


def give_memory_back() -> None:
    """One heap for all threads; what is large goes back to the kernel once it is free. glibc's own way, an
    arena for each thread and thresholds that grow, keeps what was ever in use, several times over."""
    with contextlib.suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_ARENA_MAX, 1)
        mallopt(_M_MMAP_THRESHOLD, _GIVEN_BACK_BYTES)
        mallopt(_M_TRIM_THRESHOLD, _GIVEN_BACK_BYTES)
