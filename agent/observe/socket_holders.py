"""Which processes hold a socket: maps sock_diag's inodes to /proc/PID/fd."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Collection, Iterable
from dataclasses import dataclass

from agent.errors import KernelError
from agent.observe.proc import ProcReader
from agent.system.pidfd import duplicate


class SocketGone(KernelError):
    """The process has ended, or no longer holds the socket."""


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    fd: int


def find_holders(
    reader: ProcReader, inodes: Collection[int], pids: Iterable[int] | None = None
) -> dict[int, list[Holder]]:
    """The holders of each of these socket inodes, with one descriptor per process. Sockets without a
    holder are left out.

    Reads all descriptors of `pids` (default: all processes) once, at about 4 µs per descriptor."""
    found: dict[int, list[Holder]] = {}
    if not inodes:
        return found
    for pid in reader.pids() if pids is None else pids:
        held = {inode: fd for fd, inode in reader.fds(pid).items() if inode in inodes}
        for inode, fd in held.items():
            found.setdefault(inode, []).append(Holder(pid, fd))
    return found


def socket_fd(reader: ProcReader, pid: int, inode: int) -> int:
    """Duplicate a socket of another process into this one (pidfd_getfd(2)), and return the descriptor.

    The caller must close it soon: while it is open, the port stays in use even if its owner has closed it.
    For an MPTCP listener it is the MPTCP socket, not the TCP socket that sock_diag lists. Raises
    SocketGone; raises KernelError without CAP_SYS_PTRACE or before Linux 5.6."""
    try:
        process = os.pidfd_open(pid)
    except ProcessLookupError as error:
        raise SocketGone(f"process {pid} is gone") from error
    try:
        for fd, found in reader.fds(pid).items():
            if found == inode:
                return _duplicate(process, pid, fd, inode)
    finally:
        os.close(process)
    raise SocketGone(f"process {pid} holds no socket with inode {inode}")


def _duplicate(process: int, pid: int, fd: int, inode: int) -> int:
    try:
        copy = duplicate(process, fd)
    except OSError as error:
        if error.errno in (errno.ESRCH, errno.EBADF):
            raise SocketGone(f"process {pid} has closed descriptor {fd}") from error
        raise KernelError(
            f"a socket of process {pid} cannot be duplicated: {error.strerror}; "
            "run as root with CAP_SYS_PTRACE, on Linux 5.6 or newer"
        ) from error
    about = os.fstat(copy)
    if stat.S_ISSOCK(about.st_mode) and about.st_ino == inode:
        return copy
    os.close(copy)
    raise SocketGone(f"descriptor {fd} of process {pid} is another file now")
