"""Tells when interfaces come or go, or lose what a filter hangs on, in the agent's network namespace."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator
from types import TracebackType

from agent.errors import KernelError

_NETLINK_ROUTE = 0
_LINKS, _TRAFFIC_CONTROL = 0x1, 0x8
"""RTMGRP_LINK and RTMGRP_TC (linux/rtnetlink.h)."""
_KINDS = frozenset({16, 17, 37, 44, 45})
"""RTM_NEWLINK, RTM_DELLINK, RTM_DELQDISC, and RTM_NEWTFILTER and RTM_DELTFILTER: a filter that is new may run
before ours."""
_HEADER = struct.Struct("=IHHII")
_BUFFER = 64 * 1024


class LinkWatch:
    """Wait until `fileno()` is readable, then ask `changed()`."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, _NETLINK_ROUTE)
            self._socket.bind((0, _LINKS | _TRAFFIC_CONTROL))
        except OSError as error:
            raise KernelError(f"interfaces of this host cannot be followed: {error.strerror}") from error

    def __enter__(self) -> LinkWatch:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """Has anything been announced since the last call? Never blocks. True does not promise a difference:
        the filters that we put are announced, too."""
        changed = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # announcements were lost: look for yourself
                continue
            changed = changed or not _KINDS.isdisjoint(_kinds(data))


def _kinds(data: bytes) -> Iterator[int]:
    """The type of each message in a datagram (netlink(7))."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, _, _, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind
        offset += (length + 3) & ~3
