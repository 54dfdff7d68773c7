"""Who listens, and who is connected, in every network namespace of this host, with the processes."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from dataclasses import replace
from itertools import chain

from agent.model import Listener, Namespace, Process, Protocol, Socket
from agent.observe.connections import Connection, ListenersByPort, pair
from agent.observe.netns import Namespaces
from agent.observe.owner_cache import OwnerCache
from agent.observe.owners import find_holders
from agent.observe.proc import ProcReader
from agent.observe.sockets import SocketDiag, tcp_in_use
from agent.system.netns import in_each

BOTH = (Protocol.TCP, Protocol.UDP)


class Inventory:
    """Meant to be asked every few seconds: owners are remembered, and read anew where something changed.

    Its methods raise KernelError where the kernel cannot list sockets or namespaces cannot be entered;
    a namespace that goes meanwhile is left out. Not thread-safe."""

    def __init__(
        self, reader: ProcReader, namespaces: Namespaces, protocols: Sequence[Protocol] = BOTH
    ) -> None:
        self._reader = reader
        self._namespaces = namespaces
        self._protocols = protocols
        self._owners = OwnerCache(reader)

    def listeners(
        self, openers: Mapping[int, Process] | None = None, others: Iterable[Namespace] | None = None
    ) -> list[Listener]:
        """Every listener of every namespace in scope, by port. UDP ones are those bound and unconnected.
        `openers`: who called listen(), by the socket's cookie, as far as the kernel has told. `others`: the
        namespaces in scope beside the agent's own, where they are known."""
        namespaces = self._namespaces
        return self._listeners(namespaces.all() if others is None else namespaces.with_own(others), openers)

    def sees_own(self) -> bool:
        """Is the agent's own namespace in scope?"""
        return self._namespaces.own_is_seen()

    def connections(self, ports: Container[int]) -> list[Connection]:
        """TCP connections to any of these ports that are there now, each once though both ends be here.

        Looks at every descriptor of every process: ask at start, not every few seconds."""
        namespaces = self._namespaces.all()
        listening = self._listeners(namespaces)
        at = Counter(one.netns for one in listening if one.protocol is Protocol.TCP)
        listeners = ListenersByPort(listening)
        sockets = _in_each(namespaces, lambda diag: _connected(diag, ports, at))
        found = pair(sockets, ports, listeners)
        holders = self._holders(found, _cookies(namespaces))
        return [_completed(connection, holders, listeners) for connection in found]

    def _listeners(
        self, namespaces: Sequence[Namespace], openers: Mapping[int, Process] | None = None
    ) -> list[Listener]:
        known = openers or {}
        sockets = _in_each(namespaces, lambda diag: diag.listening(self._protocols))
        pids = {cookie: process.pid for cookie, process in known.items()}
        owners = self._owners.owners(sockets, _cookies(namespaces), pids)
        found = [
            Listener(
                protocol=one.protocol,
                family=one.family,
                address=one.local,
                port=one.local_port,
                netns=one.netns,
                cookie=one.cookie,
                inode=one.inode,
                v6only=one.v6only,
                owners=owners.get(one.cookie, ()),
                opener=None if one.cookie in owners else known.get(one.cookie),
                transparent=one.transparent,
                uid=one.uid,
            )
            for one in sockets
        ]
        return sorted(
            found, key=lambda one: (one.port, one.protocol, int(one.address), one.netns, one.cookie)
        )

    def _holders(
        self, connections: Iterable[Connection], netns_cookies: dict[int, int]
    ) -> dict[int, tuple[Process, ...]]:
        """By socket inode, the process that started first in front."""
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


def _connected(diag: SocketDiag, ports: Container[int], listeners: Mapping[int, int]) -> list[Socket]:
    """The kernel's table of connections is one for all namespaces, and a list walks through the whole of it:
    none is asked for where only listeners are. `listeners`: how many there are, by namespace."""
    return diag.connections(ports) if tcp_in_use() > listeners.get(diag.netns, 0) else []


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
    """An exact address wins over a wildcard, as in the kernel; of several on one address (SO_REUSEPORT)
    the one that a process of the connected end holds too."""
    pids = {process.pid for process in processes}
    return min(
        covering,
        key=lambda one: (one.wildcard, pids.isdisjoint(owner.pid for owner in one.owners)),
        default=None,
    )
