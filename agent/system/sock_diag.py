"""Builds sock_diag(7) requests for one TCP socket. Standard library only."""

from __future__ import annotations

import socket
import struct

from agent.model import Address

SOCK_DIAG_BY_FAMILY = 20
SOCK_DESTROY = 21
ANY_STATE = 0xFFFFFFFF
_REQUEST = struct.Struct("=BBBxI2s2s16s16sIQ")
"""struct inet_diag_req_v2 of linux/inet_diag.h: family, protocol, extensions, states, then the socket's id:
local port, remote port, local and remote address, interface, cookie."""


def one_socket(cookie: int, local: tuple[Address, int], remote: tuple[Address, int]) -> bytes:
    """The request for the socket with this cookie and these ends, `local` and `remote` as the socket sees
    them. An IPv4 address takes the first four bytes, even if the socket is an IPv6 socket."""
    family = socket.AF_INET if local[0].ipv4_mapped else socket.AF_INET6
    ports = (port.to_bytes(2, "big") for _, port in (local, remote))
    ends = ((address.ipv4_mapped or address).packed for address, _ in (local, remote))
    return _REQUEST.pack(family, socket.IPPROTO_TCP, 0, ANY_STATE, *ports, *ends, 0, cookie)
