"""Addresses of network interfaces, from rtnetlink (rtnetlink(7)), in the calling thread's namespace."""

from __future__ import annotations

import socket
import struct

from agent.model import MAPPED_PREFIX, Address
from agent.policy.terms.networks import is_loopback
from agent.system.netlink import NETLINK_ROUTE, Netlink, attributes

KUBE_PROXY_INTERFACE = "kube-ipvs0"
"""kube-proxy in IPVS mode puts every ClusterIP on this interface. None of these addresses belongs to this
host."""

_GET_ADDRESSES = 22
_ADDRESS = 1
_LOCAL = 2
_IFADDRMSG = struct.Struct("=BBBBi")


def own_addresses() -> tuple[Address, ...]:
    """HostFacts.addresses: sorted; including link-local addresses, without loopback and those on
    kube-ipvs0."""
    unwanted = kube_proxy_index()
    return _ordered({address for index, address in _dump() if index != unwanted and not is_loopback(address)})


def cluster_addresses() -> tuple[Address, ...]:
    """HostFacts.elsewhere: the addresses on kube-ipvs0, sorted."""
    index = kube_proxy_index()
    return _ordered({address for number, address in _dump() if number == index}) if index else ()


def global_addresses() -> tuple[Address, ...]:
    """Namespace.addresses: sorted; without loopback, link-local addresses and those on kube-ipvs0."""
    return tuple(address for address in own_addresses() if not is_link_local(address))


def is_link_local(address: Address) -> bool:
    # IPv6Address.is_link_local handles mapped addresses only from Python 3.13 on
    return (address.ipv4_mapped or address).is_link_local


def from_wire(raw: bytes) -> Address:
    """An address from 4 or 16 bytes in network order. Raises ValueError on any other length."""
    if len(raw) == 4:
        return Address(MAPPED_PREFIX | int.from_bytes(raw, "big"))
    return Address(raw)


def _dump() -> list[tuple[int, Address]]:
    """(interface index, address) of all addresses."""
    with Netlink(NETLINK_ROUTE) as netlink:
        rows = netlink.dump(_GET_ADDRESSES, _IFADDRMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0))
    found = []
    for row in rows:
        family, _, _, _, index = _IFADDRMSG.unpack_from(row)
        if family not in (socket.AF_INET, socket.AF_INET6):
            continue
        values = dict(attributes(row, _IFADDRMSG.size))
        # on a point-to-point interface IFA_ADDRESS is the peer's, and IFA_LOCAL ours
        if raw := values.get(_LOCAL) or values.get(_ADDRESS):
            found.append((index, from_wire(raw)))
    return found


def kube_proxy_index() -> int:
    """Index of KUBE_PROXY_INTERFACE; 0: there is none."""
    try:
        return socket.if_nametoindex(KUBE_PROXY_INTERFACE)
    except OSError:
        return 0


def _ordered(addresses: set[Address]) -> tuple[Address, ...]:
    return tuple(sorted(addresses))
