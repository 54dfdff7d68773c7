"""Finds connections that are older than the agent: which end is the consumer, and which two sockets are
one connection."""

from __future__ import annotations

import socket
from collections.abc import Container, Iterable
from dataclasses import dataclass

from agent.model import MAPPED_PREFIX, Address, Listener, Process, Socket
from agent.observe.sockets import SYN_SENT
from agent.policy.terms.networks import is_loopback

EPHEMERAL_FROM = 32768
"""The first port that the kernel picks for a consumer, unless net.ipv4.ip_local_port_range differs
(ip(7))."""


@dataclass(frozen=True, slots=True)
class Connection:
    """One connection, with one or both ends on this host. None stands for an end that is not on this host,
    or not in scope; at most one end is None. Processes are empty if no process holds that end."""

    consumer: Socket | None
    server: Socket | None
    consumer_processes: tuple[Process, ...] = ()
    server_processes: tuple[Process, ...] = ()
    """The processes that hold the connected socket: the worker that accepted it; empty before accept()."""
    listener: Listener | None = None
    """The listener that accepted the connection. Its owners own the port."""

    @property
    def consumer_endpoint(self) -> tuple[Address, int]:
        if self.consumer is not None:
            return self.consumer.local, self.consumer.local_port
        assert self.server is not None
        return self.server.remote, self.server.remote_port

    @property
    def server_endpoint(self) -> tuple[Address, int]:
        """The address and port that the consumer connected to, as far as this host can see it."""
        if self.consumer is not None:
            return self.consumer.remote, self.consumer.remote_port
        assert self.server is not None
        return self.server.local, self.server.local_port


_Tuple = tuple[Address, int, Address, int]


class ListenersByPort:
    """Indexes all listeners of the namespaces by port, so that thousands of connections find theirs
    quickly."""

    def __init__(self, listeners: Iterable[Listener]) -> None:
        self._by_port: dict[tuple[int, int], list[Listener]] = {}
        for one in listeners:
            self._by_port.setdefault((one.netns, one.port), []).append(one)

    def covering(self, end: Socket) -> list[Listener]:
        """The listeners that `end` could have been accepted from."""
        return [one for one in self._by_port.get((end.netns, end.local_port), ()) if covers(one, end)]


def pair(sockets: Iterable[Socket], ports: Container[int], listeners: ListenersByPort) -> list[Connection]:
    """Pair sockets into connections to any of `ports`; each connection appears once. The caller fills in
    processes and listener.

    Two sockets are one connection if each is the other's peer and both are in one namespace. Sockets in
    different namespaces are paired if the address is not loopback and no third socket has the same tuple.
    Two sockets with NAT between them do not match, so they appear as two connections."""
    servers, consumers = [], []
    for end in sockets:
        if _is_server(end, ports, listeners):
            if end.local_port in ports:
                servers.append(end)
        elif end.remote_port in ports:
            consumers.append(end)
    return _match(servers, consumers)


def covers(listener: Listener, end: Socket) -> bool:
    """True if `end` could have been accepted from `listener`."""
    if (listener.protocol, listener.netns, listener.port) != (end.protocol, end.netns, end.local_port):
        return False
    if not listener.wildcard:
        return listener.address == end.local
    if listener.family == socket.AF_INET or listener.address == Address(MAPPED_PREFIX):
        return end.local.ipv4_mapped is not None
    return end.local.ipv4_mapped is None or not listener.v6only


def _is_server(end: Socket, ports: Container[int], listeners: ListenersByPort) -> bool:
    if end.state == SYN_SENT:
        return False
    if listeners.covering(end):
        return True
    # the listener may be closed, or this is a consumer whose own port is also declared by a service
    only_local = end.local_port in ports and end.remote_port not in ports
    return end.local_port < EPHEMERAL_FROM and (only_local or end.remote_port >= EPHEMERAL_FROM)


def _match(servers: Iterable[Socket], consumers: Iterable[Socket]) -> list[Connection]:
    near = {(end.netns, _tuple(end)): end for end in consumers}
    found, lone = [], []
    for server in servers:
        consumer = near.pop((server.netns, _peer_tuple(server)), None)
        if consumer is not None:
            found.append(Connection(consumer, server))
        else:
            lone.append(server)
    return found + _match_across(lone, near.values())


def _match_across(servers: Iterable[Socket], consumers: Iterable[Socket]) -> list[Connection]:
    """Pair ends in different namespaces. If two containers use the same tuple, the peers are ambiguous,
    and stay unpaired."""
    by_tuple: dict[_Tuple, tuple[list[Socket], list[Socket]]] = {}
    for server in servers:
        by_tuple.setdefault(_peer_tuple(server), ([], []))[0].append(server)
    for consumer in consumers:
        by_tuple.setdefault(_tuple(consumer), ([], []))[1].append(consumer)
    found = []
    for (_, _, address, _), (server_ends, consumer_ends) in by_tuple.items():
        if len(server_ends) == len(consumer_ends) == 1 and not is_loopback(address):
            found.append(Connection(consumer_ends[0], server_ends[0]))
        else:
            found += [Connection(None, server) for server in server_ends]
            found += [Connection(consumer, None) for consumer in consumer_ends]
    return found


def _tuple(end: Socket) -> _Tuple:
    return end.local, end.local_port, end.remote, end.remote_port


def _peer_tuple(end: Socket) -> _Tuple:
    return end.remote, end.remote_port, end.local, end.local_port
