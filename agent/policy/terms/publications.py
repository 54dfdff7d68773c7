"""Ports of this host that lead into containers: which listeners are such ports, and where each one leads."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from agent.model import Address, HostFacts, Listener, Process, Publication, to_address

PROXIES = ("docker-proxy", "conmon")
"""Programs that hold a published port on the host for a runtime of root's."""
_ARGUMENTS = ("-proto", "-container-ip", "-container-port")


def into(listener: Listener, addresses: Iterable[Address], facts: HostFacts) -> Iterator[Publication]:
    """Publications that lead to a listener in a network namespace with these addresses."""
    if listener.netns == facts.host_netns:
        return
    mine = set(addresses) if listener.wildcard else {listener.address}
    for one in facts.published:
        if (one.protocol, one.to_port) == (listener.protocol, listener.port) and not mine.isdisjoint(one.to):
            yield one


def leads_to(listener: Listener, facts: HostFacts) -> Listener | None:
    """The port in the container for which a runtime's process listens on this host."""
    if listener.netns != facts.host_netns or not any(map(_is_proxy, listener.owners)):
        return None
    places = (*_of_state(listener, facts), *_of_arguments(listener))
    for address, port in places:
        for namespace in facts.namespaces:
            if address in namespace.addresses:
                return replace(listener, netns=namespace.cookie, address=address, port=port)
    return None


def _is_proxy(process: Process) -> bool:
    """True for such a program run by root: any user can run a program by that name."""
    name = process.exe.rpartition("/")[2]
    return process.uid == 0 and not process.exe_untrusted and name in PROXIES


def _of_state(listener: Listener, facts: HostFacts) -> Iterator[tuple[Address, int]]:
    here = (listener.protocol, listener.address, listener.port)
    for one in facts.published:
        if (one.protocol, one.address, one.port) == here:
            yield from ((address, one.to_port) for address in one.to)


def _of_arguments(listener: Listener) -> Iterator[tuple[Address, int]]:
    """The destination that docker-proxy has in its arguments."""
    for process in filter(_is_proxy, listener.owners):
        given = dict(zip(process.args, process.args[1:], strict=False))
        protocol, address, port = (given.get(name, "") for name in _ARGUMENTS)
        if protocol != listener.protocol.name.lower() or not port.isdecimal():
            continue
        try:
            yield to_address(address), int(port)
        except ValueError:
            continue
