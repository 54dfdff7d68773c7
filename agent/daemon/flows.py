"""Flows as user space sees them: a list on demand, the connections from before the agent, and the rows
that nothing in the kernel will close."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from agent.kernel import abi
from agent.kernel.libbpf import BPF_NOEXIST
from agent.kernel.maps import Counters
from agent.kernel.records import Names, flows_in
from agent.model import (
    Address,
    Consumer,
    Destination,
    Flow,
    HostFacts,
    LocalConsumer,
    Origin,
    Process,
    Protocol,
    RemoteConsumer,
    Socket,
    Target,
)
from agent.observe.connections import Connection
from agent.policy.evaluate import evaluate
from agent.policy.networks import is_loopback, is_per_namespace
from agent.policy.owners import lineage
from agent.policy.tables import Tables

SETTLE_NS = 5 * 1_000_000_000
"""Younger rows are left alone: their sockets may not have been in sock_diag when it was read."""
_EEXIST = 17


@dataclass(frozen=True, slots=True)
class Adopted:
    """A connection from before the agent, judged now."""

    target: Target
    flow: Flow


def local_consumer(process: Process, netns: int, *, name_is_trusted: bool = True) -> LocalConsumer:
    """A process in the terms the policy judges by. A path that is not trusted matches no selector."""
    return LocalConsumer(
        exe=(process.exe or None) if name_is_trusted else "",
        uid=process.uid or 0,
        gids=frozenset(process.gids),
        cgroups=tuple(lineage(process.cgroup)),
        netns=netns,
    )


class FlowTable:
    def __init__(
        self,
        counters: Counters,
        names: Names,
        complete: Callable[..., Process],
        target_named: Callable[[int], Target | None],
        owner_of: Callable[[int, int, Address], Process | None],
        name_is_trusted: Callable[[int], bool],
    ) -> None:
        self._counters = counters
        self._names = names
        self._complete = complete
        self._target_named = target_named
        self._owner_of = owner_of
        self._name_is_trusted = name_is_trusted

    def rows(self) -> list[Flow]:
        return list(flows_in(self._counters.flows, self._names))

    def listed(self) -> list[tuple[Target, Flow]]:
        """Every flow with its processes completed, oldest first."""
        known: dict[tuple[int, int], Process] = {}

        def named(process: Process | None) -> Process | None:
            if process is None:
                return None
            key = (process.pid, process.start_boot_ns)
            if key not in known:
                known[key] = self._complete(process)
            return known[key]

        listed = []
        for flow in self.rows():
            target = self._target_named(flow.target)
            if target is not None:
                whole = replace(
                    flow,
                    consumer=named(flow.consumer),
                    owner=named(flow.owner) or self._owner_of(flow.netns, flow.port, flow.address),
                    acceptor=named(flow.acceptor),
                )
                listed.append((target, whole))
        return sorted(listed, key=lambda pair: pair[1].opened_boot_ns)

    def unseen(self, connections: Iterable[Connection], facts: HostFacts) -> list[Connection]:
        """Those that no hook seems to have seen: they have no row, and their consumer is not gone already
        (a row goes with the consumer's socket, the server's may linger)."""
        rows = self.rows()
        cookies = {flow.cookie for flow in rows}
        ends = {(flow.consumer_address, flow.consumer_port, flow.address, flow.port) for flow in rows}
        return [
            one
            for one in connections
            if cookie_of(one) not in cookies
            # else it is followed by the cookie of its other end
            and (*one.consumer_endpoint, *one.server_endpoint) not in ends
            and not (one.consumer is None and _is_here(one.consumer_endpoint[0], facts))
        ]

    def adopt(self, connections: Iterable[Connection], tables: Tables, now_boot_ns: int) -> list[Adopted]:
        """Judge and follow connections that no hook saw being made: `unseen`, and alive after that, since a
        row that is missing because its connection has just closed looks the same. Each is counted once,
        also when the daemon starts again, because its row is there then."""
        found = (self._judge(one, tables, now_boot_ns) for one in connections)
        return [one for one in found if one is not None]

    def _judge(self, connection: Connection, tables: Tables, now_boot_ns: int) -> Adopted | None:
        consumer = self._consumer_of(connection)
        socket = _followed_socket(connection)
        address, port = connection.server_endpoint
        destination = Destination(Protocol.TCP, address, port, socket.netns)
        verdict = evaluate(tables, consumer, destination, now_boot_ns)
        target = self._target_named(verdict.target)
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
        self._counters.count_found(verdict, origin)
        self._counters.count_found_flows(verdict.target, opened=1)
        return Adopted(target, flow)

    def _consumer_of(self, connection: Connection) -> Consumer:
        if connection.consumer is None or not connection.consumer_processes:
            return RemoteConsumer(connection.consumer_endpoint[0])
        netns, process = connection.consumer.netns, connection.consumer_processes[0]
        trusted = self._name_is_trusted(process.pid)
        return local_consumer(process, netns, name_is_trusted=trusted)

    def _insert(self, flow: Flow) -> bool:
        """False: the kernel has made the row meanwhile."""
        raw = encode_flow(flow, self._names.note)
        try:
            self._counters.flows.put(abi.U64.pack(flow.cookie), bytes(raw), BPF_NOEXIST)
        except OSError as error:
            if error.errno == _EEXIST:
                return False
            raise
        return True

    def sweep(self, live_cookies: frozenset[int], looked_at: frozenset[int], now_boot_ns: int) -> list[Flow]:
        """Remove the rows whose socket is gone: attempts that never got as far as a SYN, flows from before
        the agent, and those whose close was hidden by another program. Returns the established ones.

        `looked_at`: cookies of the namespaces in which the live sockets were listed."""
        closed = []
        for flow in self.rows():
            # one from before the agent was in sock_diag when it got its row
            settling = not flow.pre_existing and now_boot_ns - flow.opened_boot_ns < SETTLE_NS
            if settling or flow.cookie in live_cookies or flow.netns not in looked_at:
                continue
            self._counters.tuples.remove(tuple_key(flow))
            if self._counters.flows.remove(abi.U64.pack(flow.cookie)) and flow.established:
                self._counters.count_found_flows(flow.target, closed=1)
                closed.append(flow)
        return closed


def cookie_of(connection: Connection) -> int:
    """Of the socket that the connection is followed by."""
    return _followed_socket(connection).cookie


def _followed_socket(connection: Connection) -> Socket:
    socket = connection.consumer or connection.server
    assert socket is not None
    return socket


def _is_here(address: Address, facts: HostFacts) -> bool:
    known = (facts.addresses, *(one.addresses for one in facts.namespaces))
    return is_loopback(address) or any(address in addresses for addresses in known)


def _origin_of(consumer: Consumer, home_netns: int) -> Origin:
    """As bpf/connect.c says it: against the namespace the service lives in."""
    if isinstance(consumer, RemoteConsumer):
        return Origin.REMOTE
    return Origin.LOOPBACK if consumer.netns == home_netns else Origin.CONTAINER


def encode_identity(process: Process | None, exe_hash: Callable[[str], int], netns: int = 0) -> abi.Identity:
    if process is None:
        return abi.Identity(netns=netns)
    return abi.Identity(
        start_ns=process.start_boot_ns,
        exe=exe_hash(process.exe),
        cgroup=process.cgroup_id,
        netns=netns or process.netns,
        pid=process.pid,
        uid=process.uid or 0,
        gid=process.gid or 0,
    )


def tuple_key(flow: Flow) -> bytes:
    """Where the kernel would have the passive side look for this flow."""
    return abi.TUPLE.pack(
        flow.netns if is_per_namespace(flow.address) else 0,
        flow.consumer_address.packed,
        flow.address.packed,
        flow.consumer_port,
        flow.port,
        0,
    )


def encode_flow(flow: Flow, exe_hash: Callable[[str], int]) -> abi.Flow:
    consumer_end = (flow.consumer_address, flow.consumer_port)
    server_end = (flow.address, flow.port)
    here, there = (server_end, consumer_end) if flow.origin is Origin.REMOTE else (consumer_end, server_end)
    verdict = flow.verdict
    return abi.Flow(
        opened_ns=flow.opened_boot_ns,
        consumer=encode_identity(flow.consumer, exe_hash, flow.netns),
        owner=encode_identity(flow.owner, exe_hash),
        acceptor_pid=flow.acceptor.pid if flow.acceptor else 0,
        acceptor_start_ns=flow.acceptor.start_boot_ns if flow.acceptor else 0,
        acceptor_exe=exe_hash(flow.acceptor.exe) if flow.acceptor else 0,
        state=abi.FlowState.OPEN,
        pre_existing=True,
        verdict=abi.Verdict(
            target=verdict.target,
            grant=verdict.grant,
            decision=verdict.decision,
            reason=verdict.reason,
            origin=flow.origin,
            protocol=flow.protocol,
        ),
        local=abi.RawAddress.of(here[0]),
        local_port=here[1],
        remote=abi.RawAddress.of(there[0]),
        remote_port=there[1],
    )
