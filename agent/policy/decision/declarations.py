"""Which service declares the port of a listener."""

from __future__ import annotations

from agent.model import Address, HostFacts, Listener, Network
from agent.policy.tables.container_homes import container_homes
from agent.policy.terms import networks
from agent.policy.values import Policy, Port, Service


def declaration_of(policy: Policy, listener: Listener, facts: HostFacts) -> tuple[Service, Port] | None:
    """The service and port that a listener serves. A service that names the address precedes one `at:
    host`."""
    found = None
    for service, port in policy.declared.at(listener.port):
        if serves(service, port, listener, facts):
            if not service.at_host:
                return service, port
            found = (service, port)
    return found


def serves(service: Service, port: Port, listener: Listener, facts: HostFacts) -> bool:
    """True if this is a listener on this port, whichever process holds it."""
    if port.protocol is not listener.protocol or not port.first <= listener.port <= port.last:
        return False
    if service.at is not None and _is_at(service.at, listener, facts):
        return True
    if service.at_containers and listener.netns in container_homes(service, facts):
        return True
    return service.at_host and listener.netns == facts.host_netns


def _is_at(at: tuple[Network, ...], listener: Listener, facts: HostFacts) -> bool:
    if not listener.wildcard:
        return networks.holds(at, listener.address)
    return any(
        networks.holds(at, address) and _accepts(listener, address)
        for address in addresses_of(listener.netns, facts)
    )


def _accepts(listener: Listener, address: Address) -> bool:
    return networks.holds(networks.listening_prefixes(listener.address, listener.v6only), address)


def addresses_of(netns: int, facts: HostFacts) -> tuple[Address, ...]:
    if netns == facts.host_netns:
        return facts.addresses
    return next((each.addresses for each in facts.namespaces if each.cookie == netns), ())
