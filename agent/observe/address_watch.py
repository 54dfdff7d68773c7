"""Tells when an address of the agent's network namespace comes or goes."""

from __future__ import annotations

import errno
import socket
from types import TracebackType

from agent.errors import KernelError
from agent.observe.netlink import NETLINK_ROUTE, messages

_ADDRESS_ADDED, _ADDRESS_REMOVED = 20, 21
_IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x10, 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)."""
_BUFFER = 64 * 1024


class AddressWatch:
    """Wait until `fileno()` is readable, then ask `changed()`."""

    def __init__(self) -> None:
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
            self._socket.bind((0, _IPV4_ADDRESSES | _IPV6_ADDRESSES))
        except OSError as error:
            raise KernelError(f"addresses of this host cannot be followed: {error.strerror}") from error

    def __enter__(self) -> AddressWatch:
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
        router advertisements announce an address again and again."""
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
            changed = changed or any(
                kind in (_ADDRESS_ADDED, _ADDRESS_REMOVED) for kind, _, _, _ in messages(data)
            )
