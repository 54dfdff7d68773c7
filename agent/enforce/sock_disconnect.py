"""Closes an established connection on a kernel without SOCK_DESTROY. It duplicates the descriptor of a
process that holds the socket (pidfd_getfd(2), Linux 5.6)."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
from collections.abc import Iterable, Iterator
from pathlib import Path

from agent.system.pidfd import duplicate

_SO_COOKIE = 57  # asm-generic/socket.h
_UNSPECIFIED = bytes(16)
"""A sockaddr of family AF_UNSPEC."""
_libc = ctypes.CDLL(None, use_errno=True)


def disconnect(cookie: int, holders: Iterable[int]) -> bool:
    """Reset the connection of the socket with this cookie. `holders` are pids, the likeliest holder first.
    The peer gets ECONNRESET; the process of the socket gets ECONNRESET or EPIPE. Return False if none of
    these processes holds the socket."""
    for pid in holders:
        for held in _sockets_of(pid):
            with held:
                if held.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) == cookie.to_bytes(8, "little"):
                    _disconnect(held)
                    return True
    return False


def processes() -> list[int]:
    """The pids of all processes."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _sockets_of(pid: int) -> Iterator[socket.socket]:
    """Duplicates of a process's TCP sockets. Closing a duplicate leaves the process's own descriptor open."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # the process has exited
        return
    try:
        for number in _socket_numbers(pid):
            try:
                held = socket.socket(fileno=duplicate(process, number))
            except OSError:  # closed meanwhile
                continue
            if held.type == socket.SOCK_STREAM and held.family in (socket.AF_INET, socket.AF_INET6):
                yield held
            else:
                held.close()
    finally:
        os.close(process)


def _socket_numbers(pid: int) -> list[int]:
    found = []
    with contextlib.suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                if os.readlink(link).startswith("socket:"):
                    found.append(int(link.name))
    return found


def _disconnect(held: socket.socket) -> None:
    if _libc.connect(held.fileno(), _UNSPECIFIED, len(_UNSPECIFIED)) != 0:
        number = ctypes.get_errno()
        if number != errno.ENOTCONN:
            raise OSError(number, os.strerror(number))
