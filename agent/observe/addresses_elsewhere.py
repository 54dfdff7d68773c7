"""Addresses that come in other network namespaces, as the kernel announces them here (rtnetlink(7))."""

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
"""ifa_scope of struct ifaddrmsg; from RT_SCOPE_LINK on, an address is none by which anybody is known."""
_NSID, _OF_DESCRIPTOR = 1, 3
"""NETNSA_NSID and NETNSA_FD (linux/net_namespace.h)."""
_ASK = struct.Struct("=B3xHHI")
"""struct rtgenmsg, and one attribute of four bytes."""
_NUMBER = struct.Struct("=i")
_BUFFER = 64 * 1024


class AddressesElsewhere(Closing):
    """Of namespaces that have a number in the one this is made in: those that share a pair of interfaces with
    it, or were given one. A container of root's runtime has its address before its first program starts.

    For one thread, which may be elsewhere by then."""

    def __init__(self) -> None:
        try:
            self._socket = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_ROUTE
            )
            self._socket.setsockopt(SOL_NETLINK, _LISTEN_ALL_NSID, 1)
            self._socket.bind((0, ADDRESS_GROUPS))
        except OSError as error:
            raise KernelError(
                f"addresses of other namespaces cannot be followed: {error.strerror}"
            ) from error
        self._numbers = Netlink(NETLINK_ROUTE)

    def close(self) -> None:
        self._socket.close()
        self._numbers.close()

    def wait(self) -> frozenset[int]:
        """Waits until addresses come; the numbers of their namespaces. What was announced while there was no
        room for it is not among them."""
        found = self._next(0)
        while more := self._next(socket.MSG_DONTWAIT):
            found |= more
        return found

    def _next(self, flags: int) -> frozenset[int]:
        """Of the next announcement that counts; none: there is no more now."""
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
        """Of the namespace of a descriptor; -1: it has none here."""
        ask = _ASK.pack(socket.AF_UNSPEC, 4 + 4, _OF_DESCRIPTOR, namespace)
        answer = dict(attributes(self._numbers.ask(_GET_NSID, ask), 4))
        return int(_NUMBER.unpack(answer[_NSID])[0])


def _is_wide(kind: int, body: bytes) -> bool:
    return kind == _NEW_ADDRESS and body[_SCOPE_AT] < _SCOPE_LINK
