"""Which processes hold a socket: the link from sock_diag's inode to /proc/PID/fd."""

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
    """The process is gone, or holds the socket no longer."""


@dataclass(frozen=True, slots=True)
class Holder:
    pid: int
    fd: int


def find_holders(
    reader: ProcReader, inodes: Collection[int], pids: Iterable[int] | None = None
) -> dict[int, list[Holder]]:
    """Who holds each of these socket inodes, one descriptor for each process; what nobody holds is left out.

    One pass over all descriptors of `pids` (of all processes), at some 4 µs a descriptor."""
    found: dict[int, list[Holder]] = {}
    if not inodes:
        return found
    for pid in reader.pids() if pids is None else pids:
        held = {inode: fd for fd, inode in reader.fds(pid).items() if inode in inodes}
        for inode, fd in held.items():
            found.setdefault(inode, []).append(Holder(pid, fd))
    return found


def socket_fd(reader: ProcReader, pid: int, inode: int) -> int:
    """A descriptor of this process for a socket that another one holds (pidfd_getfd(2)).

    The caller closes it, soon: while it is open, the port stays taken though its owner has closed it.
    An MPTCP listener's is the MPTCP socket, not the TCP one that sock_diag lists. Raises SocketGone;
    KernelError without CAP_SYS_PTRACE or before Linux 5.6."""
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
