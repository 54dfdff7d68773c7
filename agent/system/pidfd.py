"""Descriptors of other processes (pidfd_getfd(2), Linux 5.6). Standard library only."""

from __future__ import annotations

import ctypes
import os
from functools import cache

_PIDFD_GETFD = 438
"""The same number on every architecture (asm-generic/unistd.h); the C library has no function for it."""


def duplicate(process: int, fd: int) -> int:
    """Duplicate descriptor `fd` of the process behind pidfd `process` into this process.

    Raises OSError. EBADF: `fd` is not open; ESRCH: the process is gone; EPERM: CAP_SYS_PTRACE is missing."""
    copy = _libc().syscall(_PIDFD_GETFD, process, fd, 0)
    if copy < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return int(copy)


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)
