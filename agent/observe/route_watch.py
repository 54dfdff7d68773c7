"""Tells when addresses, or interfaces and their filters, of a network namespace come or go (rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
from collections.abc import Container
from types import TracebackType

from agent.errors import KernelError
from agent.observe.netlink import NETLINK_ROUTE, messages

_ADDRESS_KINDS = (20, 21)
"""RTM_NEWADDR, RTM_DELADDR."""
_IPV4_ADDRESSES, _IPV6_ADDRESSES = 0x10, 0x100
"""RTMGRP_IPV4_IFADDR and RTMGRP_IPV6_IFADDR (linux/rtnetlink.h)."""
_LINK_KINDS = (16, 17, 37, 44, 45)
"""RTM_NEWLINK, RTM_DELLINK, RTM_DELQDISC, and RTM_NEWTFILTER and RTM_DELTFILTER: a filter that is new may run
before ours."""
_LINKS, _TRAFFIC_CONTROL = 0x1, 0x8
"""RTMGRP_LINK and RTMGRP_TC."""
_BUFFER = 64 * 1024


class RouteWatch:
    """Of the namespace it is made in, which lives on while this is open. Wait until `fileno()` is readable
    or ask now and then: `changed()`."""

    def __init__(self, groups: int, kinds: Container[int], what: str) -> None:
        self._kinds = kinds
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
            self._socket.bind((0, groups))
        except OSError as error:
            raise KernelError(f"{what} of this host cannot be followed: {error.strerror}") from error

    def __enter__(self) -> RouteWatch:
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
        router advertisements announce an address again and again, and our own filters are announced, too."""
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
            changed = changed or any(kind in self._kinds for kind, _, _, _ in messages(data))


class AddressWatch(RouteWatch):
    def __init__(self) -> None:
        super().__init__(_IPV4_ADDRESSES | _IPV6_ADDRESSES, _ADDRESS_KINDS, "addresses")


class LinkWatch(RouteWatch):
    """Interfaces, and what a filter hangs on."""

    def __init__(self) -> None:
        super().__init__(_LINKS | _TRAFFIC_CONTROL, _LINK_KINDS, "interfaces")
