"""The entries of the kernel's table `targets`: the target of each port, at each address and network."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.model import HostFacts, Network, PortClass, Protocol, Target, show_network
from agent.policy.findings import policy_errors
from agent.policy.tables.container_homes import container_homes
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import DELIVERED, MAX_PLACES, Numbered, TargetKey
from agent.policy.terms.networks import (
    LOOPBACK,
    UNSPECIFIED,
    is_network_per_namespace,
    is_per_namespace,
    without_mapped,
)
from agent.policy.terms.ports import pieces
from agent.policy.values import Finding, Policy, Port, Service


def port_numbers(policy: Policy) -> tuple[Numbered, ...]:
    """Gives one number to all ports that the same services declare with the same class. The kernel does not
    distinguish such ports: the place belongs to the service."""
    declared = [(service.name, port) for service in policy.services.values() for port in service.ports]
    known: dict[frozenset[tuple[str, PortClass, Protocol]], int] = {}
    found = []
    for first, last, here in pieces(declared, lambda one: one[1]):
        targets = frozenset((service, port.port_class, port.protocol) for service, port in here)
        found.append(Numbered(first, last, known.setdefault(targets, len(known) + 1)))
    return tuple(found)


def _numbers_in(port: Port, numbers: Sequence[Numbered]) -> tuple[int, ...]:
    """The numbers of a port that was among the numbered ones."""
    begin, end = (
        bisect_right(numbers, edge, key=lambda one: one.first) for edge in (port.first - 1, port.last)
    )
    return tuple(dict.fromkeys(one.number for one in numbers[begin:end]))


def target_keys(
    policy: Policy, facts: HostFacts, ids: Ids, numbers: Sequence[Numbered]
) -> tuple[dict[TargetKey, int], list[Finding]]:
    """The target table. Claims are entered from general to specific, and later ones stay: this host, then
    networks, wide ones first. An IPv6 prefix cut around IPv4 may leave a part that another service names."""
    targets: dict[TargetKey, int] = {}
    overlaps: dict[Port, Finding] = {}
    claims = []
    room = MAX_PLACES - len(facts.elsewhere)
    for service in policy.services.values():
        places = tuple(_claims(service, facts))
        counted: set[tuple[Protocol, int]] = set()
        for port in service.ports:
            within = _numbers_in(port, numbers)
            claims += [(claim, service, port, within) for claim in places]
            entries = {(port.protocol, number) for number in within} - counted
            counted |= entries
            room -= len(places) * len(entries)
            if room < 0:
                raise policy_errors([_too_many_places(service, port)])
    claims.sort(key=lambda each: each[0].rank)
    of_host: set[TargetKey] = set()
    for claim, service, port, within in claims:
        number = ids.target(Target(service.name, port.port_class))
        for ports in within:
            key = TargetKey(claim.netns, int(port.protocol), ports, claim.network)
            if service.at_host:
                of_host.add(key)
            elif key in of_host and claim.network != DELIVERED:
                reason = f"service '{service.name}' takes {port} from {ids.target_named(targets[key])}"
                where = f"at this host's address {show_network(claim.network)}"
                remedy = "give one of them another port or another `at`"
                overlaps[port] = Finding(port.place, f"{reason} {where}", remedy)
            targets[key] = number
    return targets, list(overlaps.values())


def _too_many_places(service: Service, port: Port) -> Finding:
    return Finding(
        port.place,
        f"service '{service.name}': {port} is one too many: all ports and ranges, each counted once for each "
        f"address and network that it is at, may be {MAX_PLACES}",
        "write neighboring ports as ranges, or networks in place of addresses",
    )


@dataclass(frozen=True, slots=True)
class _Claim:
    rank: int
    netns: int
    """0 for routable addresses."""
    network: Network


def _claims(service: Service, facts: HostFacts) -> Iterator[_Claim]:
    """Every place that the service's `at` stands for."""
    if service.at_containers:
        yield from _container_claims(service, facts)
    if service.at_host:
        for address in facts.addresses:
            netns = facts.host_netns if is_per_namespace(address) else 0
            yield _Claim(-1, netns, Network((int(address), 128)))
        for route in facts.local_routes:
            for part in without_mapped(route):
                netns = facts.host_netns if is_network_per_namespace(part) else 0
                yield _Claim(-1, netns, part)
        for network in (*LOOPBACK, *UNSPECIFIED, DELIVERED):
            yield _Claim(-1, facts.host_netns, network)
    for network in service.at or ():
        for part in without_mapped(network):
            netns = facts.host_netns if is_network_per_namespace(part) else 0
            yield _Claim(network.prefixlen, netns, part)


def _container_claims(service: Service, facts: HostFacts) -> Iterator[_Claim]:
    """The addresses of the containers' namespaces. A container that shares this host's namespace has this
    host's."""
    addresses = {one.cookie: one.addresses for one in facts.namespaces} | {facts.host_netns: facts.addresses}
    for netns in container_homes(service, facts):
        for address in addresses.get(netns, ()):
            yield _Claim(128, netns if is_per_namespace(address) else 0, Network((int(address), 128)))
        for network in (*LOOPBACK, *UNSPECIFIED, DELIVERED):
            yield _Claim(128, netns, network)
