"""Routes of type local in the calling thread's namespace: destinations delivered to this host, whether or
not an interface has the address (ip-route(8)).

Only the tables that the kernel consults first are read: local, and those of VRFs. A local route in another
table applies to packets that a rule sends there, which no list shows. The BPF programs use the route of
the connection itself.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterable, Iterator

from agent.model import Address, Network
from agent.observe.addresses import from_wire, kube_proxy_index
from agent.policy.terms.networks import LOOPBACK, covers
from agent.system.netlink import NETLINK_ROUTE, Netlink, attributes

RTN_LOCAL = 2
"""linux/rtnetlink.h"""
_GET_LINKS, _GET_ROUTES = 18, 26
_TABLE_LOCAL = 255
_DESTINATION, _INTERFACE, _TABLE = 1, 4, 15
_LINK_INFO, _INFO_KIND, _INFO_DATA, _VRF_TABLE = 18, 1, 2, 1
_RTMSG = struct.Struct("=BBBBBBBBI")
"""family, destination's and source's prefix lengths, tos, table, protocol, scope, type, flags."""
_IFINFOMSG = struct.Struct("=BxHiII")
_ATTRIBUTE = struct.Struct("=HHI")
_NUMBER = struct.Struct("=I")
_FAMILIES = {socket.AF_INET: 96, socket.AF_INET6: 0}
"""By family: the number added to a prefix length for the 16-byte form."""


def own_local_routes(addresses: Iterable[Address]) -> tuple[Network, ...]:
    """HostFacts.local_routes: local routes beyond these addresses, without loopback and those on
    kube-ipvs0; sorted."""
    known = {Network((int(address), 128)) for address in addresses}
    with Netlink(NETLINK_ROUTE, strict=True) as netlink:
        unwanted = kube_proxy_index()
        found = {
            network
            for table in (_TABLE_LOCAL, *_vrf_tables(netlink))
            for interface, network in _routes(netlink, table)
            if not (unwanted and interface == unwanted)
        }
    return tuple(sorted(each for each in found - known if not any(covers(loop, each) for loop in LOOPBACK)))


def _routes(netlink: Netlink, table: int) -> Iterator[tuple[int, Network]]:
    """(interface index, destination) of the local routes."""
    for family, mapped in _FAMILIES.items():
        request = _RTMSG.pack(family, 0, 0, 0, 0, 0, 0, RTN_LOCAL, 0)
        try:
            rows = netlink.dump(_GET_ROUTES, request + _ATTRIBUTE.pack(8, _TABLE, table))
        except OSError as error:
            if error.errno != errno.ENOENT:  # no such table
                raise
            continue
        for row in rows:
            _, length, _, _, _, _, _, kind, _ = _RTMSG.unpack_from(row)
            values = dict(attributes(row, _RTMSG.size))
            if kind != RTN_LOCAL or _number(values.get(_TABLE)) != table:
                continue
            raw = values.get(_DESTINATION, bytes(4 if mapped else 16))
            yield _number(values.get(_INTERFACE)), Network((int(from_wire(raw)), length + mapped))


def _vrf_tables(netlink: Netlink) -> set[int]:
    found = set()
    for row in netlink.dump(_GET_LINKS, _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)):
        info = dict(attributes(dict(attributes(row, _IFINFOMSG.size)).get(_LINK_INFO, b""), 0))
        if info.get(_INFO_KIND, b"").rstrip(b"\0") == b"vrf":
            found.add(_number(dict(attributes(info.get(_INFO_DATA, b""), 0)).get(_VRF_TABLE)))
    return found


def _number(raw: bytes | None) -> int:
    return int(_NUMBER.unpack(raw)[0]) if raw else 0
