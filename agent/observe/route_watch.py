"""Detects changes of addresses and local routes, or of interfaces and filters, in a network namespace
(rtnetlink(7))."""

from __future__ import annotations

import ctypes as ct
import errno
import socket
import struct
from collections.abc import Container, Sequence

from agent.errors import KernelError
from agent.observe.local_routes import RTN_LOCAL
from agent.system.closing import Closing
from agent.system.netlink import ADDRESS_GROUPS, NETLINK_ROUTE, messages

_NEW_ROUTE, _DEL_ROUTE = 24, 25
_ADDRESS_KINDS = (20, 21, _NEW_ROUTE, _DEL_ROUTE)
"""RTM_NEWADDR, RTM_DELADDR, RTM_NEWROUTE, RTM_DELROUTE."""
_ROUTES = 0x40 | 0x400
"""RTMGRP_IPV4_ROUTE and RTMGRP_IPV6_ROUTE (linux/rtnetlink.h)."""
_TYPE_AT, _ROUTE_TYPE_AT = 4, 16 + 7
"""Offsets of nlmsg_type, and of rtm_type after the header."""
_ALL = 0xFFFFFFFF
_LOCAL_ROUTES_ONLY = (
    (0x28, 0, 0, _TYPE_AT),  # load half, in network order
    (0x15, 1, 0, socket.htons(_NEW_ROUTE)),
    (0x15, 0, 2, socket.htons(_DEL_ROUTE)),  # neither: jump to the first return
    (0x30, 0, 0, _ROUTE_TYPE_AT),  # load byte
    (0x15, 0, 1, RTN_LOCAL),
    (0x06, 0, 0, _ALL),
    (0x06, 0, 0, 0),
)
"""A socket filter (linux/filter.h). A router's table changes a thousand times a second; the filter drops
those messages, so they wake no process."""
_SO_ATTACH_FILTER = 26
_LINK_KINDS = (16, 17, 37, 44, 45)
"""RTM_NEWLINK, RTM_DELLINK, RTM_DELQDISC, RTM_NEWTFILTER and RTM_DELTFILTER. A new filter may run before
ours."""
_LINKS, _TRAFFIC_CONTROL = 0x1, 0x8
"""RTMGRP_LINK and RTMGRP_TC."""
_BUFFER = 64 * 1024


class RouteWatch(Closing):
    """Watches the namespace that the constructor runs in. An open watch keeps the namespace alive. Wait
    until `fileno()` is readable, or poll: `changed()`."""

    def __init__(
        self, groups: int, kinds: Container[int], what: str, only: Sequence[tuple[int, int, int, int]] = ()
    ) -> None:
        self._kinds = kinds
        kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK
        try:
            self._socket = socket.socket(socket.AF_NETLINK, kind, NETLINK_ROUTE)
            if only:
                _attach(self._socket, only)
            self._socket.bind((0, groups))
        except OSError as error:
            raise KernelError(
                f"changes of {what} on this host cannot be watched: {error.strerror}"
            ) from error

    def close(self) -> None:
        self._socket.close()

    def fileno(self) -> int:
        return self._socket.fileno()

    def changed(self) -> bool:
        """True if the kernel announced something since the last call. Never blocks. True does not imply a
        difference: router advertisements announce an address repeatedly, and our own filters are announced
        too."""
        changed = False
        while True:
            try:
                data = self._socket.recv(_BUFFER)
            except BlockingIOError:
                return changed
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                changed = True  # announcements were lost, so the caller must check
                continue
            changed = changed or any(kind in self._kinds for kind, _, _, _ in messages(data))


def _attach(to: socket.socket, code: Sequence[tuple[int, int, int, int]]) -> None:
    instructions = ct.create_string_buffer(b"".join(struct.pack("=HBBI", *each) for each in code))
    to.setsockopt(
        socket.SOL_SOCKET, _SO_ATTACH_FILTER, struct.pack("@HP", len(code), ct.addressof(instructions))
    )


class AddressWatch(RouteWatch):
    """Watches addresses and routes of type local."""

    def __init__(self) -> None:
        super().__init__(ADDRESS_GROUPS | _ROUTES, _ADDRESS_KINDS, "addresses", _LOCAL_ROUTES_ONLY)


class LinkWatch(RouteWatch):
    """Watches interfaces, qdiscs and filters."""

    def __init__(self) -> None:
        super().__init__(_LINKS | _TRAFFIC_CONTROL, _LINK_KINDS, "interfaces")
