"""Judges connections older than the agent, or older than the policy's declaration of their port."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from agent import abi
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.tracking.consumers import local_consumer
from agent.daemon.tracking.flows import FlowTable
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.encode_rows import encode_flow
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import flow_rows
from agent.kernel.uapi import NOEXIST
from agent.model import (
    Address,
    Consumer,
    Destination,
    Flow,
    HostFacts,
    Origin,
    Protocol,
    RemoteConsumer,
    Socket,
    Target,
)
from agent.observe.connections import Connection
from agent.observe.proc import ProcReader
from agent.policy.decision.evaluate import evaluate
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables
from agent.policy.terms.networks import holds, is_loopback

_EEXIST = 17


@dataclass(frozen=True, slots=True)
class Adopted:
    """A connection older than the agent or than its port's declaration, with the verdict of now."""

    target: Target
    flow: Flow


@dataclass(frozen=True, slots=True)
class Adoption:
    """Judges older flows by the policy in force and puts them into the kernel's table."""

    flows: FlowTable
    counters: Counters
    names: Names
    ids: Ids
    reader: ProcReader
    modes: ModesInForce

    def unseen(self, connections: Iterable[Connection], facts: HostFacts) -> list[Connection]:
        """Connections that no hook seems to have seen. Such a connection has no row.

        A connection whose consumer is gone is left out: its row went with the consumer's socket, while the
        server's socket may linger."""
        followed = {cookie for cookie, _ in flow_rows(self.counters.flows)}
        unknown = [one for one in connections if followed_socket(one).cookie not in followed]
        ends = {_ends_of(one) for one in unknown}
        for flow in self.flows.rows() if ends else ():
            # this flow has a row under the cookie of its other end
            ends.discard((flow.consumer_address, flow.consumer_port, flow.address, flow.port))
        return [
            one
            for one in unknown
            if _ends_of(one) in ends
            and not (one.consumer is None and _is_here(one.consumer_endpoint[0], facts))
        ]

    def adopt(self, connections: Iterable[Connection], tables: Tables, now_boot_ns: int) -> list[Adopted]:
        """Judge the connections that no hook saw, and add a row for each.

        Pass connections that were `unseen` and still alive after that: the row of a connection that just
        closed is missing, too. Each is counted once, also across restarts of the daemon, because its row is
        found then."""
        found = (self._judge(one, tables, now_boot_ns) for one in connections)
        return [one for one in found if one is not None]

    def _judge(self, connection: Connection, tables: Tables, now_boot_ns: int) -> Adopted | None:
        consumer = self._consumer_of(connection)
        socket = followed_socket(connection)
        address, port = connection.server_endpoint
        server = connection.server
        delivered_in = server.netns if server and not server.transparent else 0
        destination = Destination(Protocol.TCP, address, port, socket.netns, delivered_in)
        verdict = evaluate(tables, consumer, destination, now_boot_ns, self.modes.enforces)
        target = self.ids.target_named(verdict.target)
        if target is None:
            return None
        origin = _origin_of(consumer, tables.rows[verdict.target].home_netns)
        process = connection.consumer_processes[0] if connection.consumer_processes else None
        owners = connection.listener.owners if connection.listener else connection.server_processes
        owner = owners[0] if owners else None
        flow = Flow(
            cookie=socket.cookie,
            target=verdict.target,
            consumer=process,
            consumer_address=connection.consumer_endpoint[0],
            consumer_port=connection.consumer_endpoint[1],
            address=address,
            port=port,
            owner=owner,
            acceptor=connection.server_processes[0] if connection.server_processes else None,
            verdict=verdict,
            origin=origin,
            protocol=Protocol.TCP,
            opened_boot_ns=now_boot_ns,
            established=True,
            pre_existing=True,
            netns=socket.netns,
        )
        if not self._insert(flow):
            return None
        self.counters.count_found(verdict, origin)
        self.counters.count_found_flows(verdict.target, opened=1)
        return Adopted(target, flow)

    def _consumer_of(self, connection: Connection) -> Consumer:
        if connection.consumer is None or not connection.consumer_processes:
            return RemoteConsumer(connection.consumer_endpoint[0])
        netns, process = connection.consumer.netns, connection.consumer_processes[0]
        trusted = self.reader.names_are_trusted(process.pid)
        return local_consumer(process, netns, name_is_trusted=trusted)

    def _insert(self, flow: Flow) -> bool:
        """False if the kernel has made the row meanwhile."""
        raw = encode_flow(flow, self.names.note)
        try:
            self.counters.flows.put(abi.U64.pack(flow.cookie), bytes(raw), NOEXIST)
        except OSError as error:
            if error.errno == _EEXIST:
                return False
            raise
        return True


def _ends_of(connection: Connection) -> tuple[Address, int, Address, int]:
    return *connection.consumer_endpoint, *connection.server_endpoint


def followed_socket(connection: Connection) -> Socket:
    """The socket whose cookie is the key of the flow's row."""
    socket = connection.consumer or connection.server
    assert socket is not None
    return socket


def _is_here(address: Address, facts: HostFacts) -> bool:
    known = (facts.addresses, *(one.addresses for one in facts.namespaces))
    return (
        is_loopback(address)
        or any(address in addresses for addresses in known)
        or holds(facts.local_routes, address)
    )


def _origin_of(consumer: Consumer, home_netns: int) -> Origin:
    """The origin, by the rule of bpf/hooks/connect_observer.c: relative to the namespace the service runs
    in."""
    if isinstance(consumer, RemoteConsumer):
        return Origin.REMOTE
    return Origin.LOOPBACK if consumer.netns == home_netns else Origin.CONTAINER
