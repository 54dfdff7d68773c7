"""Declared ports of local services on which no process listens."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent.model import Address, HostFacts, Listener, Protocol, Target
from agent.policy.decision.declarations import serves
from agent.policy.tables.container_homes import container_homes
from agent.policy.values import Policy, Port, Service


@dataclass(frozen=True, slots=True)
class Unserved:
    target: Target
    port: Port


def unserved(
    policy: Policy, listeners: Iterable[Listener], facts: HostFacts, seen: Collection[int]
) -> list[Unserved]:
    """The ports without a listener, in policy order. Of a range, one listener is enough. `seen`: cookies of
    the network namespaces that were scanned.

    Four kinds are left out, because they may be served where the agent does not look. (1) Services at
    addresses elsewhere, or at more than this host's own. (2) Services at containers that do not run here. (3)
    Ports of this host that lead into containers. (4) Ports that a transparent listener may accept.
    """
    there: dict[tuple[Protocol, int], list[Listener]] = {}
    takes_all = set()
    for one in listeners:
        there.setdefault((one.protocol, one.port), []).append(one)
        if one.transparent:
            takes_all.add(one.netns)
    own = {address: one.cookie for one in facts.namespaces for address in one.addresses}
    own |= dict.fromkeys(facts.addresses, facts.host_netns)
    found = []
    for service in policy.services.values():
        places = set(_places(service, facts, own))
        if not places or not places <= set(seen) or places & takes_all:
            continue
        for port in service.ports:
            near = (one for one in _on(port, there) if one.netns in places)
            if not any(serves(service, port, one, facts) for one in near) and not _leads_on(
                service, port, facts
            ):
                found.append(Unserved(Target(service.name, port.port_class), port))
    return found


def _on(port: Port, there: Mapping[tuple[Protocol, int], list[Listener]]) -> Iterator[Listener]:
    numbers = range(port.first, port.last + 1)
    if len(numbers) < len(there):
        for number in numbers:
            yield from there.get((port.protocol, number), ())
        return
    for (protocol, number), found in there.items():
        if protocol is port.protocol and number in numbers:
            yield from found


def _places(service: Service, facts: HostFacts, own: Mapping[Address, int]) -> Iterator[int]:
    """The network namespaces that serve it. None: it may be anywhere. `own`: namespaces by address."""
    if service.at_host:
        yield facts.host_netns
    yield from container_homes(service, facts)
    spots = service.at or ()
    if all(network.prefixlen == 128 and network.network_address in own for network in spots):
        yield from (own[network.network_address] for network in spots)


def _leads_on(service: Service, port: Port, facts: HostFacts) -> bool:
    """True if the port leads into a container."""
    return service.at_host and any(port.takes(one.protocol, one.port) for one in facts.published)
