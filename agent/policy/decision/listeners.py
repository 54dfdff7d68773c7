"""Judges listeners: is the port declared, does its owner serve it, is it open no wider than allowed."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import chain

from agent.model import (
    INIT,
    Address,
    HostFacts,
    Listener,
    ListenerState,
    Network,
    PortClass,
    Process,
    Target,
    show_endpoint,
    show_network,
)
from agent.policy.decision.declarations import addresses_of, declaration_of
from agent.policy.decision.owners import is_owner, lineage
from agent.policy.terms import networks, publications
from agent.policy.values import Policy, Port, Service, UndeclaredListeners

ROOT = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    service: str
    """Empty if no service declares the port."""
    port_class: str
    states: tuple[ListenerState, ...]
    """Empty if it cannot be judged: there is no policy, or the port is private to another namespace."""
    bind: str
    """loopback, private, public or any: the widest side from which it is reachable."""
    explanation: str
    """Sentences for the operator, with the rule's place; empty if nothing is wrong."""


def facts_judged_by(facts: HostFacts, cgroups: Iterable[str]) -> tuple[object, ...]:
    """What judge_listener reads of the facts, for listeners of processes in these cgroups. While it stays
    equal, so does every judgement. Containers elsewhere come and go at any time."""
    near = {"/", *facts.container_netns, *chain.from_iterable(map(lineage, cgroups))}
    return (
        facts.host_netns,
        facts.addresses,
        facts.namespaces,
        facts.users,
        facts.groups,
        facts.realpaths,
        {path: facts.containers[path] for path in near & facts.containers.keys()},
        facts.delegated & near,
        facts.container_netns,
        facts.published,
    )


def judge_listener(policy: Policy | None, listener: Listener, facts: HostFacts) -> Judgement:
    """Judges a listener. One in another namespace is judged only if a service has that namespace's
    addresses."""
    bind = bind_of(listener.address)
    if policy is None:
        return Judgement("", "", (), bind, "")
    declared = declaration_of(policy, listener, facts)
    if declared is None and (inside := publications.leads_to(listener, facts)):
        published = declaration_of(policy, inside, facts)
        if published:
            return _of_publication(*published, listener, facts)
    if declared is None:
        if listener.netns != facts.host_netns:
            return Judgement("", "", (), bind, "")
        return Judgement("", "", (ListenerState.UNDECLARED,), bind, _undeclared(policy, listener))
    service, port = declared
    faults = dict(_faults(service, port, listener, facts))
    states = tuple(faults) or (ListenerState.DECLARED,)
    return Judgement(service.name, port.port_class.value, states, bind, "; ".join(faults.values()))


def _of_publication(service: Service, port: Port, listener: Listener, facts: HostFacts) -> Judgement:
    """Judges a port of this host that a runtime's process holds, and that leads to a service in a
    container."""
    faults = dict(
        _too_wide(
            service,
            port,
            [(f"is published at {_spot(listener)}", each) for each in _own_reach(listener, facts)],
        )
    )
    states = tuple(faults) or (ListenerState.DECLARED,)
    explanation = "; ".join(faults.values())
    return Judgement(service.name, port.port_class.value, states, bind_of(listener.address), explanation)


def _faults(
    service: Service, port: Port, listener: Listener, facts: HostFacts
) -> Iterator[tuple[ListenerState, str]]:
    whose = _whose(service, listener, facts)
    if whose is ListenerState.OWNER_MISMATCH:
        yield whose, _wrong_owner(service, port, _answerable(listener))
    elif whose is ListenerState.OWNER_UNKNOWN:
        yield whose, _nobody_known(service, port, listener)
    reach = [(f"listens on {_spot(listener)}", prefix) for prefix in _own_reach(listener, facts)]
    yield from _too_wide(service, port, [*reach, *_published_reach(listener, facts)])


def _own_reach(listener: Listener, facts: HostFacts) -> list[Network]:
    """The addresses by which it can be reached. In a container every listener counts as listening on all
    addresses there. On the host, public addresses may exist that the agent cannot see, because of NAT
    elsewhere."""
    prefixes = networks.listening_prefixes(listener.address, listener.v6only)
    if not listener.wildcard or listener.netns == facts.host_netns:
        return list(prefixes)
    addresses = addresses_of(listener.netns, facts)
    return [Network((int(each), 128)) for each in addresses if networks.holds(prefixes, each)]


def _published_reach(listener: Listener, facts: HostFacts) -> Iterator[tuple[str, Network]]:
    for one in publications.into(listener, addresses_of(listener.netns, facts), facts):
        spot = show_endpoint(one.address, one.port, one.protocol)
        for prefix in networks.listening_prefixes(one.address, v6only=True):
            yield f"is published at {spot} of this host ({one.by})", prefix


def _whose(service: Service, listener: Listener, facts: HostFacts) -> ListenerState:
    answerable = _answerable(listener)
    answers = {
        is_owner(service.owners_there, process, facts) for process in answerable if _serves(process, listener)
    }
    is_strange = service.owner and listener.strange and not listener.activated
    if (answerable or is_strange) and answers <= {False}:
        return ListenerState.OWNER_MISMATCH
    is_sure = True in answers and not listener.opener  # the opener may have handed it on since
    awaits_owner = listener.owners and not answerable
    if not service.owner or is_sure or awaits_owner:
        return ListenerState.DECLARED
    return ListenerState.OWNER_UNKNOWN


def opens_for_others(process: Process) -> bool:
    """True for pid 1, and for the process that pid 1 makes to open sockets, in the cgroup of a .socket unit.
    A cgroup's name alone proves nothing; `Listener.activated` confirms it."""
    return process.pid == INIT or process.unit.endswith(".socket")


def _answerable(listener: Listener) -> tuple[Process, ...]:
    """The holders that serve it. pid 1 holds the socket of a service that it starts at the first connection,
    and continues to hold it. A socket that was handed to pid 1 to keep still belongs to the service."""
    if listener.opener and not listener.activated:
        return (listener.opener,)
    holders = _without_children_of_init(listener.owners)
    others = tuple(process for process in holders if process.pid != INIT)
    if listener.activated:
        return tuple(process for process in others if not opens_for_others(process))
    return others or holders


def _without_children_of_init(owners: tuple[Process, ...]) -> tuple[Process, ...]:
    """Without processes that pid 1 is starting: they hold its sockets until they execute their own program.
    Root's user manager runs the same program as pid 1, but is not such a process."""
    init = next((process for process in owners if process.pid == INIT), None)
    if init is None or not init.exe:
        return owners
    programs = (init.exe, f"{init.exe.rpartition('/')[0]}/systemd-executor")
    return tuple(
        process
        for process in owners
        if process.pid == INIT
        or process.uid != ROOT
        or process.exe not in programs
        or process.unit.startswith("user@")
    )


def _serves(owner: Process, listener: Listener) -> bool:
    """True if this process serves the listener. A stranger could hand its socket to a setuid program or send
    it to a server, which does not make the listener theirs. The process must have made it, or got it from
    root."""
    return not listener.strange or listener.uid in (ROOT, -1, owner.uid)


def listening_scope(port: Port) -> tuple[Network, ...]:
    """The addresses at which the port may be bound: its own `bind`, or the default of its class."""
    return _class_scope(port.port_class) if port.bind is None else port.bind


def _class_scope(port_class: PortClass) -> tuple[Network, ...]:
    if port_class is PortClass.PUBLIC:
        return networks.EVERYTHING
    return (*networks.LOOPBACK, *networks.PRIVATE)


def in_scope(policy: Policy, target: Target, address: Address) -> bool:
    """False: a peer with this address has reached the target from outside its listening scope.

    Call it only for peers elsewhere: a consumer of this host may use the host's public address. A `bind` of a
    single address selects the interface to listen on, not the peers. It stands for the side that the address
    is on: loopback, private or public. True for a target that the policy lacks.
    """
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
    return show_endpoint(listener.address, listener.port, listener.protocol)


def _undeclared(policy: Policy, listener: Listener) -> str:
    if policy.undeclared_listeners is UndeclaredListeners.IGNORE:
        return ""
    return f"no service declares {_spot(listener)}: add a service with this port, or stop the listener"


def _wrong_owner(service: Service, port: Port, owners: Iterable[Process]) -> str:
    who = ", ".join(dict.fromkeys(_name(process) for process in owners)) or "a hidden process"
    return (
        f"{service.name} ({port}) is served by {who}, which is not an owner ({service.owner[0].place}): "
        "stop it, or add it to `owner`"
    )


def _nobody_known(service: Service, port: Port, listener: Listener) -> str:
    if listener.owners:
        who = ", ".join(dict.fromkeys(_name(process) for process in listener.owners))
        return f"{service.name} ({port}): too little is known of {who} to tell whether it is an owner"
    opener = f"; {_name(listener.opener)} called listen()" if listener.opener else ""
    return f"{service.name} ({port}): no process is known to hold it yet{opener}"


def _name(process: Process) -> str:
    container = process.container.label if process.container else ""
    return process.unit or container or process.exe or process.comm


def _too_wide(
    service: Service, port: Port, reach: Iterable[tuple[str, Network]]
) -> Iterator[tuple[ListenerState, str]]:
    """Why the listener is too wide. `reach`: each way to reach it, and the addresses of that way."""
    scope = listening_scope(port)
    wide = [how for how, prefix in reach if not any(networks.covers(allowed, prefix) for allowed in scope)]
    if not wide:
        return
    allowed = (
        "loopback and private addresses" if port.bind is None else ", ".join(show_network(n) for n in scope)
    )
    yield (
        ListenerState.EXPOSED,
        f"{service.name}/{port.port_class} {' and '.join(dict.fromkeys(wide))}, wider than {allowed} "
        f"({port.place}): bind it to a narrower address, or widen `bind`",
    )
