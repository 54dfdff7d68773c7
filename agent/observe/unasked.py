"""Files as the kernel has them in memory: nothing here asks a file system, which a user may serve (FUSE) and
leave without an answer."""

from __future__ import annotations

import ctypes
import os
import struct
from dataclasses import dataclass

_libc = ctypes.CDLL(None, use_errno=True)
_AT_FDCWD = -100
# linux/fcntl.h, linux/stat.h
_AT_EMPTY_PATH, _AT_STATX_DONT_SYNC = 0x1000, 0x4000
_STATX_NLINK, _STATX_INO = 0x4, 0x100
_STATX = struct.Struct("=16x I 12x Q 96x II 112x")
"""Links, inode, device."""
# linux/openat2.h, since Linux 5.12; the number of the call is the same on all architectures
_OPENAT2, _RESOLVE_CACHED = 437, 0x20
_OPEN_HOW = struct.Struct("=QQQ")


@dataclass(frozen=True, slots=True)
class File:
    device: tuple[int, int]
    inode: int
    links: int


def file_of(fd: int) -> File:
    """What is known of an open file (statx(2)). Raises OSError where nobody may look."""
    found = ctypes.create_string_buffer(256)
    wanted = _STATX_NLINK | _STATX_INO
    if _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, wanted, found) < 0:
        raise _error()
    links, inode, major, minor = _STATX.unpack_from(found)
    return File((major, minor), inode, links)


def file_at(path: str) -> File | None:
    """None: none that is in memory by this name. One that is in use is, unless its file system has each name
    asked for anew."""
    how = _OPEN_HOW.pack(os.O_PATH | os.O_CLOEXEC, 0, _RESOLVE_CACHED)
    fd = _libc.syscall(_OPENAT2, _AT_FDCWD, os.fsencode(path), how, len(how))
    if fd < 0:
        return None
    try:
        return file_of(fd)
    except OSError:
        return None
    finally:
        os.close(fd)


def _error() -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number))
