"""Listeners and connections of every network namespace of this host, with their processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from operator import attrgetter
from typing import NamedTuple

from agent.model import Listener, Namespace, Process, Protocol, Socket
from agent.observe.connections import Connection, ListenersByPort, pair
from agent.observe.holder_cache import OwnerCache
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.socket_holders import find_holders
from agent.observe.sockets import SocketDiag, tcp_in_use
from agent.system.netns import in_each

BOTH = (Protocol.TCP, Protocol.UDP)


class _Listed(NamedTuple):
    """A listener, the socket that it was made from, and where it stands in the list."""

    socket: Socket
    listener: Listener
    order: tuple[int, ...]


class Inventory:
    """Meant to be called every few seconds: holders are cached, and read again only after a change.

    Methods raise KernelError if the kernel cannot list sockets, or if a namespace cannot be entered. A
    namespace that disappears meanwhile is left out. Not thread-safe."""

    def __init__(
        self, reader: ProcReader, namespaces: Namespaces, protocols: Sequence[Protocol] = BOTH
    ) -> None:
        self._reader = reader
        self._namespaces = namespaces
        self._protocols = protocols
        self._owners = OwnerCache(reader)
        self._rows: dict[int, dict[bytes, Socket]] = {}
        """Sockets of the last listing by the kernel's rows, by network namespace."""
        self._listed: dict[int, _Listed] = {}
        """By cookie."""

    def listeners(
        self, openers: Mapping[int, Process] | None = None, others: Iterable[Namespace] | None = None
    ) -> list[Listener]:
        """Every listener of every namespace in scope, by port. A UDP listener is a bound, unconnected
        socket. `openers`: the process that called listen() by the socket's cookie, as far as the kernel
        has reported it. `others`: the namespaces in scope besides the agent's own, if the caller knows
        them."""
        namespaces = self._namespaces
        return self._listeners(namespaces.all() if others is None else namespaces.with_own(others), openers)

    def sees_own(self) -> bool:
        """True if the agent's own namespace is in scope."""
        return self._namespaces.own_is_seen()

    def connections(self, ports: Container[int], without: Container[int] = ()) -> list[Connection]:
        """Current TCP connections to any of these ports. A connection appears once, even if both ends are
        on this host. Sockets whose cookies are in `without` are left out.

        Reads every descriptor of every process, unless all are left out: call it at the start, not every few
        seconds."""
        namespaces = self._namespaces.all()
        listening = self._listeners(namespaces)
        at = Counter(one.netns for one in listening if one.protocol is Protocol.TCP)
        listeners = ListenersByPort(listening)
        sockets = _in_each(namespaces, lambda diag: _connected(diag, ports, at, without))
        found = pair(sockets, ports, listeners)
        holders = self._holders(found, _cookies(namespaces))
        return [_completed(connection, holders, listeners) for connection in found]

    def _listeners(
        self, namespaces: Sequence[Namespace], openers: Mapping[int, Process] | None = None
    ) -> list[Listener]:
        known = openers or {}
        self._rows = dict(in_each(namespaces, self._listening_in))
        sockets = [one for rows in self._rows.values() for one in rows.values()]
        pids = {cookie: process.pid for cookie, process in known.items()}
        owners = self._owners.owners(sockets, _cookies(namespaces), pids)
        listed = [self._list(one, owners.get(one.cookie, ()), known.get(one.cookie)) for one in sockets]
        self._listed = {one.socket.cookie: one for one in listed}
        return [one.listener for one in sorted(listed, key=attrgetter("order"))]

    def _listening_in(self, namespace: Namespace) -> tuple[int, dict[bytes, Socket]]:
        with SocketDiag(namespace.cookie) as diag:
            before = self._rows.get(namespace.cookie, {})
            return namespace.cookie, diag.listening_rows(self._protocols, before)

    def _list(self, one: Socket, owners: tuple[Process, ...], heard: Process | None) -> _Listed:
        opener = None if owners else heard
        before = self._listed.get(one.cookie)
        known = before.listener if before and before.socket is one else None
        if before and known and known.owners == owners and known.opener == opener:
            return before
        listener = Listener(
            protocol=one.protocol,
            family=one.family,
            address=one.local,
            port=one.local_port,
            netns=one.netns,
            cookie=one.cookie,
            inode=one.inode,
            v6only=one.v6only,
            owners=owners,
            opener=opener,
            transparent=one.transparent,
            uid=one.uid,
        )
        return _Listed(one, listener, (one.local_port, one.protocol, int(one.local), one.netns, one.cookie))

    def _holders(
        self, connections: Iterable[Connection], netns_cookies: dict[int, int]
    ) -> dict[int, tuple[Process, ...]]:
        """Holders by socket inode; the process that started first comes first."""
        ends = [end for one in connections for end in (one.consumer, one.server) if end and end.inode]
        found = find_holders(self._reader, {end.inode for end in ends})
        pids = {holder.pid for holders in found.values() for holder in holders}
        processes = {pid: self._reader.process(pid, netns_cookies) for pid in pids}
        result = {}
        for inode, holders in found.items():
            known = [process for holder in holders if (process := processes[holder.pid])]
            result[inode] = tuple(sorted(known, key=lambda process: (process.start_boot_ns, process.pid)))
        return result


def _cookies(namespaces: Iterable[Namespace]) -> dict[int, int]:
    return {namespace.inode: namespace.cookie for namespace in namespaces}


def _in_each(namespaces: Iterable[Namespace], listing: Callable[[SocketDiag], list[Socket]]) -> list[Socket]:
    def listed(namespace: Namespace) -> list[Socket]:
        with SocketDiag(namespace.cookie) as diag:
            return listing(diag)

    return list(chain.from_iterable(in_each(namespaces, listed)))


def _connected(
    diag: SocketDiag, ports: Container[int], listeners: Mapping[int, int], without: Container[int]
) -> list[Socket]:
    """Connected sockets. The kernel has one table of connections for all namespaces, and listing walks
    through all of it. So a namespace that has only listeners is skipped. `listeners`: number of TCP
    listeners by namespace."""
    return diag.connections(ports, without=without) if tcp_in_use() > listeners.get(diag.netns, 0) else []


def _completed(
    connection: Connection, holders: dict[int, tuple[Process, ...]], listeners: ListenersByPort
) -> Connection:
    consumer, server = connection.consumer, connection.server
    server_processes = holders.get(server.inode, ()) if server else ()
    return replace(
        connection,
        consumer_processes=holders.get(consumer.inode, ()) if consumer else (),
        server_processes=server_processes,
        listener=_nearest(listeners.covering(server), server_processes) if server else None,
    )


def _nearest(covering: Iterable[Listener], processes: Iterable[Process]) -> Listener | None:
    """The listener that accepted a socket. An exact address wins over a wildcard, as in the kernel. Among
    several on one address (SO_REUSEPORT), prefer one that a process of the connected end also holds."""
    pids = {process.pid for process in processes}
    return min(
        covering,
        key=lambda one: (one.wildcard, pids.isdisjoint(owner.pid for owner in one.owners)),
        default=None,
    )
