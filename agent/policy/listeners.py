"""Listeners judged: declared at all, served by its owner, open no wider than allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.model import (
    Address,
    HostFacts,
    Listener,
    ListenerState,
    Network,
    PortClass,
    Process,
    Target,
    show_address,
    show_network,
)
from agent.policy import networks
from agent.policy.homes import container_homes
from agent.policy.owners import could_be_owner
from agent.policy.values import Policy, Port, Service, UndeclaredListeners


@dataclass(frozen=True, slots=True)
class Judgement:
    service: str
    """Empty where no service declares the port."""
    port_class: str
    states: tuple[ListenerState, ...]
    """Empty where there is nothing to judge by: no policy, or another namespace's own port."""
    bind: str
    """loopback, private, public or any: how wide it listens."""
    explanation: str
    """For the operator, with the rule's place; empty if nothing is wrong."""


def judge_listener(policy: Policy | None, listener: Listener, facts: HostFacts) -> Judgement:
    """A listener in another namespace is judged only where a service's addresses are that namespace's."""
    bind = bind_of(listener.address)
    if policy is None:
        return Judgement("", "", (), bind, "")
    declared = declaration_of(policy, listener, facts)
    if declared is None:
        if listener.netns != facts.host_netns:
            return Judgement("", "", (), bind, "")
        return Judgement("", "", (ListenerState.UNDECLARED,), bind, _undeclared(policy, listener))
    service, port = declared
    faults = dict(_faults(service, port, listener, facts))
    states = tuple(faults) or (ListenerState.DECLARED,)
    return Judgement(service.name, port.port_class.value, states, bind, "; ".join(faults.values()))


def declaration_of(policy: Policy, listener: Listener, facts: HostFacts) -> tuple[Service, Port] | None:
    """The service and port that a listener serves; one that names an address goes before `at: host`."""
    found = None
    for service in policy.services.values():
        for port in service.ports:
            if port.protocol is listener.protocol and port.first <= listener.port <= port.last:
                if service.at is not None and _is_at(service.at, listener, facts):
                    return service, port
                if listener.netns in container_homes(service, facts):
                    return service, port
                if service.at_host and listener.netns == facts.host_netns:
                    found = (service, port)
    return found


def _is_at(at: tuple[Network, ...], listener: Listener, facts: HostFacts) -> bool:
    if not listener.wildcard:
        return networks.holds(at, listener.address)
    return any(
        networks.holds(at, address) and _accepts(listener, address)
        for address in _addresses_of(listener.netns, facts)
    )


def _accepts(listener: Listener, address: Address) -> bool:
    return networks.holds(networks.listening_prefixes(listener.address, listener.v6only), address)


def _addresses_of(netns: int, facts: HostFacts) -> tuple[Address, ...]:
    if netns == facts.host_netns:
        return facts.addresses
    return next((each.addresses for each in facts.namespaces if each.cookie == netns), ())


def _faults(
    service: Service, port: Port, listener: Listener, facts: HostFacts
) -> Iterator[tuple[ListenerState, str]]:
    if listener.owners and not any(
        could_be_owner(service.owner, process, facts) for process in listener.owners
    ):
        yield ListenerState.OWNER_MISMATCH, _wrong_owner(service, port, listener.owners)
    scope = listening_scope(port)
    wide = [
        prefix
        for prefix in networks.listening_prefixes(listener.address, listener.v6only)
        if not any(networks.covers(allowed, prefix) for allowed in scope)
    ]
    if wide:
        yield ListenerState.EXPOSED, _too_wide(service, port, listener, scope)


def listening_scope(port: Port) -> tuple[Network, ...]:
    """Where the port may be bound: its own `bind`, or what its class stands for."""
    return _class_scope(port.port_class) if port.bind is None else port.bind


def _class_scope(port_class: PortClass) -> tuple[Network, ...]:
    if port_class is PortClass.PUBLIC:
        return networks.EVERYTHING
    return (*networks.LOOPBACK, *networks.PRIVATE)


def in_scope(policy: Policy, target: Target, address: Address) -> bool:
    """False: a peer with this address has reached the target from outside its listening scope.

    Asked of peers elsewhere; a consumer of this host may well use the host's public address. A `bind` of a
    single address says on which interface to listen, not who may come: it stands for the loopback, the
    private or the public side that it is on. True of a target the policy does not have."""
    service = policy.services.get(target.service)
    ports = [port for port in service.ports if port.port_class is target.port_class] if service else []
    return not ports or any(networks.holds(_peers(port), address) for port in ports)


def _peers(port: Port) -> Iterator[Network]:
    for network in listening_scope(port):
        if network.prefixlen < 128:
            yield network
        elif networks.is_loopback(network.network_address):
            yield from networks.LOOPBACK
        elif networks.is_private(network.network_address):
            yield from (*networks.LOOPBACK, *networks.PRIVATE)
        else:
            yield from networks.EVERYTHING


def bind_of(address: Address) -> str:
    if networks.is_unspecified(address):
        return "any"
    if networks.is_loopback(address):
        return "loopback"
    return "private" if networks.is_private(address) else "public"


def _spot(listener: Listener) -> str:
    address = show_address(listener.address)
    where = f"[{address}]" if ":" in address else address
    return f"{where}:{listener.port}/{listener.protocol.name.lower()}"


def _undeclared(policy: Policy, listener: Listener) -> str:
    if policy.undeclared_listeners is UndeclaredListeners.IGNORE:
        return ""
    return f"no service declares {_spot(listener)}: add a service with this port, or stop the listener"


def _wrong_owner(service: Service, port: Port, owners: Iterable[Process]) -> str:
    who = ", ".join(dict.fromkeys(_name(process) for process in owners))
    return (
        f"{service.name} ({port}) is served by {who}, none of its owners ({service.owner[0].place}): "
        "stop it, or add it to `owner`"
    )


def _name(process: Process) -> str:
    container = process.container.label if process.container else ""
    return process.unit or container or process.exe or process.comm


def _too_wide(service: Service, port: Port, listener: Listener, scope: tuple[Network, ...]) -> str:
    allowed = (
        "loopback and private addresses" if port.bind is None else ", ".join(show_network(n) for n in scope)
    )
    return (
        f"{service.name}/{port.port_class} listens on {_spot(listener)}, wider than {allowed} "
        f"({port.place}): bind it to a narrower address, or widen `bind`"
    )
