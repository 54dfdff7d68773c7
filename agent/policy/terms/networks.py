"""Classifies addresses: per namespace, by family, by private range."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from agent.model import MAPPED_PREFIX, Address, Network, to_network

IPV4 = to_network("0.0.0.0/0")
LOOPBACK = (to_network("127.0.0.0/8"), to_network("::1/128"))
UNSPECIFIED = (to_network("0.0.0.0/32"), to_network("::/128"))
LINK_LOCAL4, LINK_LOCAL6 = to_network("169.254.0.0/16"), to_network("fe80::/10")
PRIVATE = (
    *(to_network(text) for text in ("10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "100.64.0.0/10")),
    to_network("fc00::/7"),
    LINK_LOCAL4,
    LINK_LOCAL6,
)
"""RFC 1918, RFC 6598 (shared address space), RFC 4193, and link-local."""

EVERYTHING = (IPV4, to_network("::/0"))

NEAR, FAR = (120, 64), (112, 48)
"""Prefix lengths for mapped IPv4 addresses (/24, /16) and IPv6 ones. NEAR groups the rows of uses; FAR is
what one row stands for if rows are scarce (bpf/lib/uses.h)."""

_PER_NAMESPACE = (*LOOPBACK, *UNSPECIFIED, LINK_LOCAL6)


def is_ipv4(network: Network) -> bool:
    return int(network.network_address) >> 32 == 0xFFFF and network.prefixlen >= 96


def covers(outer: Network, inner: Network) -> bool:
    """True if all of `inner` is in `outer`; an IPv6 prefix (::/0) covers no IPv4 address."""
    return is_ipv4(outer) == is_ipv4(inner) and inner.subnet_of(outer)


def holds(networks: Iterable[Network], address: Address) -> bool:
    """True if the address is in one of the networks, of its own family."""
    number = int(address)
    mapped = number >> 32 == 0xFFFF
    return any(
        is_ipv4(network) == mapped
        and number >> (128 - network.prefixlen) == int(network.network_address) >> (128 - network.prefixlen)
        for network in networks
    )


def around(address: Address, lengths: tuple[int, int]) -> Network:
    """The network that an address is in; `lengths` is NEAR or FAR."""
    return Network((int(address), lengths[0 if address.ipv4_mapped else 1]), strict=False)


def is_loopback(address: Address) -> bool:
    return holds(LOOPBACK, address)


def is_unspecified(address: Address) -> bool:
    return holds(UNSPECIFIED, address)


def is_private(address: Address) -> bool:
    return holds(PRIVATE, address)


def is_per_namespace(address: Address) -> bool:
    """True for loopback, unspecified and IPv6 link-local addresses, which mean something else in each network
    namespace (the same list as in bpf/lib/target.h). IPv4 link-local ones do not: hosts forward to
    169.254.169.254 for their containers."""
    return holds(_PER_NAMESPACE, address)


def is_network_per_namespace(network: Network) -> bool:
    return any(covers(block, network) for block in _PER_NAMESPACE)


def without_mapped(network: Network) -> tuple[Network, ...]:
    """The network in the form of a longest-prefix table, in which IPv4 is a part of IPv6. An IPv6 prefix that
    contains ::ffff:0:0/96 (as ::/0 does) is cut around it. Any other network is returned as it is."""
    if is_ipv4(network) or not IPV4.subnet_of(network):
        return (network,)
    return tuple(sorted(network.address_exclude(IPV4)))


def prefixes_of(address: Address) -> Iterator[Network]:
    """Every network that contains the address, longest first: how a longest-prefix table is searched."""
    number = int(address)
    for length in range(128, -1, -1):
        yield Network((number >> (128 - length) << (128 - length), length))


def listening_prefixes(address: Address, v6only: bool) -> tuple[Network, ...]:
    """The addresses that a bound address accepts: itself, or a whole family (:: without IPV6_V6ONLY:
    both)."""
    if address == Address(MAPPED_PREFIX):
        return (IPV4,)
    if address == Address(0):
        return EVERYTHING[1:] if v6only else EVERYTHING
    return (Network((int(address), 128)),)
