"""Flows as user space sees them: a list on demand, the connections from before the agent, and the rows
that nothing in the kernel will close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass, replace

from agent import abi
from agent.daemon.tracking.past_uses import PastUse
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.encode_rows import encode_flow, tuple_key
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import Use, by_age, flow_of, flow_rows
from agent.kernel.uapi import NOEXIST
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
from agent.policy.decision.evaluate import evaluate
from agent.policy.decision.owners import lineage
from agent.policy.decision.question import NOBODY
from agent.policy.tables.shape import Tables
from agent.policy.terms.networks import holds, is_loopback

KNOWN_PROCESSES = 1024
"""Remembered while flows are listed."""
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
        in_pid_namespace=process.in_pid_namespace,
        exe_elsewhere=process.exe_elsewhere,
        owners=tuple((uid, NOBODY) for uid in process.user_owners),
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
        enforces: Callable[[Target], bool] | None = None,
    ) -> None:
        self._counters = counters
        self._names = names
        self._complete = complete
        self._target_named = target_named
        self._owner_of = owner_of
        self._name_is_trusted = name_is_trusted
        self._enforces = enforces

    def rows(self, *, outside: Container[int] = ()) -> Iterator[Flow]:
        """Without those of the namespaces `outside`. One at a time: all of them at once, as objects, are more
        than the rest of the agent."""
        for cookie, raw in flow_rows(self._counters.flows):
            if _netns_of(raw) not in outside:
                yield flow_of(cookie, abi.Flow.from_buffer_copy(raw), self._names)

    def row(self, cookie: int) -> Flow | None:
        raw = self._counters.flows.get(abi.U64.pack(cookie))
        return flow_of(cookie, abi.Flow.from_buffer_copy(raw), self._names) if raw else None

    def listed(self) -> Iterator[tuple[Target, Flow]]:
        """Every flow with its processes completed, oldest first; one at a time."""
        known: dict[tuple[int, int], Process] = {}

        def named(process: Process | None) -> Process | None:
            if process is None:
                return None
            key = (process.pid, process.start_boot_ns)
            if key not in known:
                if len(known) >= KNOWN_PROCESSES:
                    known.clear()
                known[key] = self._complete(process)
            return known[key]

        for cookie in by_age(self._counters.flows):
            flow = self.row(cookie)
            target = self._target_named(flow.target) if flow else None
            if flow is not None and target is not None:
                whole = replace(
                    flow,
                    consumer=named(flow.consumer),
                    owner=named(flow.owner) or self._owner_of(flow.netns, flow.port, flow.address),
                    acceptor=named(flow.acceptor),
                )
                yield target, whole

    def uses(self) -> Iterator[PastUse]:
        """Open connections as uses; those of one consumer of a target, or from one address, are one."""
        alike: dict[tuple[int, bytes], list[int]] = {}
        for cookie, value in flow_rows(self._counters.flows):
            raw = abi.Flow.from_buffer_copy(value)
            if raw.state == abi.FlowState.OPEN:
                who = raw.consumer if raw.consumer.pid else raw.remote
                alike.setdefault((raw.verdict.target, bytes(who)), [cookie, 0])[1] += 1
        for cookie, count in alike.values():
            found = self._counters.flows.get(abi.U64.pack(cookie))
            if found and (use := self._as_use(abi.Flow.from_buffer_copy(found), cookie, count)):
                yield use

    def _as_use(self, raw: abi.Flow, cookie: int, count: int) -> PastUse | None:
        flow = flow_of(cookie, raw, self._names)
        target = self._target_named(flow.target)
        if target is None:
            return None
        use = Use(
            key=b"",
            attempts=0,
            verdict=flow.verdict,
            origin=flow.origin,
            protocol=flow.protocol,
            consumer=flow.consumer,
            comm="",
            netns=flow.netns,
            source=flow.consumer_address,
            source_port=flow.consumer_port,
            destination=flow.address,
            port=flow.port,
            first_boot_ns=flow.opened_boot_ns,
            last_boot_ns=flow.opened_boot_ns,
            told=True,
        )
        return PastUse(use, target, self._complete(flow.consumer) if flow.consumer else None, count)

    def unseen(self, connections: Iterable[Connection], facts: HostFacts) -> list[Connection]:
        """Those that no hook seems to have seen: they have no row, and their consumer is not gone already
        (a row goes with the consumer's socket, the server's may linger)."""
        followed = {cookie for cookie, _ in flow_rows(self._counters.flows)}
        unknown = [one for one in connections if followed_socket(one).cookie not in followed]
        ends = {_ends_of(one) for one in unknown}
        for flow in self.rows() if ends else ():
            # it is followed by the cookie of its other end
            ends.discard((flow.consumer_address, flow.consumer_port, flow.address, flow.port))
        return [
            one
            for one in unknown
            if _ends_of(one) in ends
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
        socket = followed_socket(connection)
        address, port = connection.server_endpoint
        server = connection.server
        delivered_in = server.netns if server and not server.transparent else 0
        destination = Destination(Protocol.TCP, address, port, socket.netns, delivered_in)
        verdict = evaluate(tables, consumer, destination, now_boot_ns, self._enforces)
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
            self._counters.flows.put(abi.U64.pack(flow.cookie), bytes(raw), NOEXIST)
        except OSError as error:
            if error.errno == _EEXIST:
                return False
            raise
        return True

    def per_namespace(self) -> Counter[int]:
        """How many rows each has."""
        return Counter(_netns_of(raw) for _, raw in flow_rows(self._counters.flows))

    def sweep(self, live_cookies: frozenset[int], looked_at: frozenset[int], now_boot_ns: int) -> int:
        """Remove the rows whose socket is gone: attempts that never got as far as a SYN, flows from before
        the agent, and those whose close was hidden by another program. Returns how many were established.

        `looked_at`: cookies of the namespaces in which the live sockets were listed."""
        closed = 0
        for flow in self.rows():
            # one from before the agent was in sock_diag when it got its row
            settling = not flow.pre_existing and now_boot_ns - flow.opened_boot_ns < SETTLE_NS
            if settling or flow.cookie in live_cookies or flow.netns not in looked_at:
                continue
            self._forget_tuple(flow)
            if self._counters.flows.remove(abi.U64.pack(flow.cookie)) and flow.established:
                self._counters.count_found_flows(flow.target, closed=1)
                closed += 1
        return closed

    def _forget_tuple(self, flow: Flow) -> None:
        """Unless another socket has it now: in another namespace there may be the same addresses."""
        key = tuple_key(flow)
        if self._counters.tuples.get(key) == abi.U64.pack(flow.cookie):
            self._counters.tuples.remove(key)


def _netns_of(row: bytes) -> int:
    netns: int = abi.U64.unpack_from(row, abi.Flow.consumer.offset + abi.Identity.netns.offset)[0]
    return netns


def _ends_of(connection: Connection) -> tuple[Address, int, Address, int]:
    return *connection.consumer_endpoint, *connection.server_endpoint


def followed_socket(connection: Connection) -> Socket:
    """The one by whose cookie the connection is followed."""
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
    """As bpf/hooks/connect_observer.c says it: against the namespace the service lives in."""
    if isinstance(consumer, RemoteConsumer):
        return Origin.REMOTE
    return Origin.LOOPBACK if consumer.netns == home_netns else Origin.CONTAINER
