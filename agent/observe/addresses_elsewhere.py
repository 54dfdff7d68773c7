"""Watches for new addresses in other network namespaces, which the kernel announces in this one
(rtnetlink(7))."""

from __future__ import annotations

import errno
import socket
import struct

from agent.errors import KernelError
from agent.system.closing import Closing
from agent.system.netlink import ADDRESS_GROUPS, NETLINK_ROUTE, SOL_NETLINK, Netlink, attributes, messages

_LISTEN_ALL_NSID = 8
_NEW_ADDRESS, _GET_NSID = 20, 90
_SCOPE_AT, _SCOPE_LINK = 3, 253
"""ifa_scope of struct ifaddrmsg. An address of RT_SCOPE_LINK or narrower does not identify a host."""
_NSID, _OF_DESCRIPTOR = 1, 3
"""NETNSA_NSID and NETNSA_FD (linux/net_namespace.h)."""
_ASK = struct.Struct("=B3xHHI")
"""struct rtgenmsg, and one attribute of four bytes."""
_NUMBER = struct.Struct("=i")
_BUFFER = 64 * 1024


class AddressesElsewhere(Closing):
    """Watches the namespaces that have an nsid in the namespace of the constructor: those that share a
    veth pair with it, or were given an nsid. A container of root's runtime has its address before its
    first program starts.

    Use it in one thread, which may have moved to another namespace by then."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
            )
            self._socket.setsockopt(SOL_NETLINK, _LISTEN_ALL_NSID, 1)
            self._socket.bind((0, ADDRESS_GROUPS))
        except OSError as error:
            raise KernelError(f"addresses of other namespaces cannot be watched: {error.strerror}") from error
        self._numbers = Netlink(NETLINK_ROUTE)

    def close(self) -> None:
        self._socket.close()
        self._numbers.close()

    def wait(self) -> frozenset[int]:
        """Wait until addresses appear, and return the nsids of their namespaces. Announcements that
        overflowed the buffer are missing."""
        found = self._next(0)
        while more := self._next(socket.MSG_DONTWAIT):
            found |= more
        return found

    def _next(self, flags: int) -> frozenset[int]:
        """The nsids of the next relevant announcement; empty: no more announcements now."""
        while True:
            try:
                data, more, _, _ = self._socket.recvmsg(_BUFFER, socket.CMSG_SPACE(_NUMBER.size), flags)
            except BlockingIOError:
                return frozenset()
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                continue
            numbers = frozenset(_NUMBER.unpack(value)[0] for level, _, value in more if level == SOL_NETLINK)
            if numbers and any(_is_wide(kind, body) for kind, _, _, body in messages(data)):
                return numbers

    def number_of(self, namespace: int) -> int:
        """The nsid of the namespace that the descriptor refers to; -1: it has none here."""
        ask = _ASK.pack(socket.AF_UNSPEC, 4 + 4, _OF_DESCRIPTOR, namespace)
        answer = dict(attributes(self._numbers.ask(_GET_NSID, ask), 4))
        return int(_NUMBER.unpack(answer[_NSID])[0])


def _is_wide(kind: int, body: bytes) -> bool:
    return kind == _NEW_ADDRESS and body[_SCOPE_AT] < _SCOPE_LINK
