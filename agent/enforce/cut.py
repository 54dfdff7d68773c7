"""Ending an established connection: SOCK_DESTROY, by the socket's cookie (sock_diag(7))."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import dataclass

from agent.errors import KernelError
from agent.model import MAPPED_PREFIX, Address

_NETLINK_SOCK_DIAG = 4
_SOCK_DESTROY = 21
_REQUEST, _ACK = 0x1, 0x4
_ERROR = 2
_HEADER = struct.Struct("=IHHII")
_ERRNO = struct.Struct("=i")
_IDENTITY = struct.Struct("=BBBxIHH16s16sIQ")
"""struct inet_diag_req_v2: family, protocol, extensions, states, then the socket's id: source port,
destination port (both in network order), source, destination, interface, cookie."""
_ALL_STATES = 0xFFFFFFFF
_TIMEOUT_S = 2.0
_GONE = (errno.ENOENT, errno.ESTALE)


class CannotDestroy(KernelError):
    """This kernel has no SOCK_DESTROY."""


@dataclass(frozen=True, slots=True)
class Established:
    """A TCP socket, as its own side sees it. The cookie is what names it: addresses alone could by now belong
    to another connection, or lead to the listener."""

    cookie: int
    local: tuple[Address, int]
    remote: tuple[Address, int]


class Cutter:
    """Ends sockets of the network namespace it is made in."""

    def __init__(self) -> None:
        self._netlink = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_SOCK_DIAG
        )
        self._netlink.settimeout(_TIMEOUT_S)
        self._sequence = 0

    def __enter__(self) -> Cutter:
        return self

    def __exit__(self, *_: object) -> None:
        self._netlink.close()

    def cut(self, one: Established) -> bool:
        """The program gets ECONNABORTED, the other end a reset. False: it was gone already.

        Raises CannotDestroy where the kernel is built without it (CONFIG_INET_DIAG_DESTROY), KernelError
        where it is not allowed (CAP_NET_ADMIN)."""
        self._sequence += 1
        body = _body(one)
        size = _HEADER.size + len(body)
        self._netlink.send(_HEADER.pack(size, _SOCK_DESTROY, _REQUEST | _ACK, self._sequence, 0) + body)
        code = self._answer()
        if code == 0:
            return True
        if code in _GONE:
            return False
        if code == errno.EOPNOTSUPP:
            raise CannotDestroy("this kernel has no SOCK_DESTROY (CONFIG_INET_DIAG_DESTROY)")
        raise KernelError(f"a connection cannot be cut (SOCK_DESTROY): {os.strerror(code)}")

    def _answer(self) -> int:
        while True:
            answer = self._netlink.recv(4096)
            _, kind, _, sequence, _ = _HEADER.unpack_from(answer)
            if kind == _ERROR and sequence == self._sequence:
                return -int(_ERRNO.unpack_from(answer, _HEADER.size)[0])


def _body(one: Established) -> bytes:
    (local, local_port), (remote, remote_port) = one.local, one.remote
    family = socket.AF_INET if _is_mapped(local) else socket.AF_INET6
    return _IDENTITY.pack(
        family,
        socket.IPPROTO_TCP,
        0,
        _ALL_STATES,
        socket.htons(local_port),
        socket.htons(remote_port),
        _wire(local),
        _wire(remote),
        0,
        one.cookie,
    )


def _is_mapped(address: Address) -> bool:
    return address.packed[:12] == MAPPED_PREFIX.to_bytes(16, "big")[:12]


def _wire(address: Address) -> bytes:
    """IPv4 takes the first four bytes, also of a socket that is an IPv6 one."""
    return address.packed[12:].ljust(16, b"\0") if _is_mapped(address) else address.packed
