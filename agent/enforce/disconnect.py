"""Ending an established connection where the kernel has no SOCK_DESTROY: through the descriptor of a process
that holds the socket (pidfd_getfd(2), Linux 5.6)."""

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
    """Reset the connection of the socket with this cookie; `holders` are pids, likeliest first. The other
    end gets ECONNRESET, its own process that or EPIPE. False: none of them holds it."""
    for pid in holders:
        for held in _sockets_of(pid):
            with held:
                if held.getsockopt(socket.SOL_SOCKET, _SO_COOKIE, 8) == cookie.to_bytes(8, "little"):
                    _disconnect(held)
                    return True
    return False


def processes() -> list[int]:
    """All pids."""
    return [int(name) for name in os.listdir("/proc") if name.isdigit()]


def _sockets_of(pid: int) -> Iterator[socket.socket]:
    """Duplicates of a process's TCP sockets; closing one leaves the process's own open."""
    try:
        process = os.pidfd_open(pid)
    except OSError:  # gone
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
