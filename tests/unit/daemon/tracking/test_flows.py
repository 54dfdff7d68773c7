from __future__ import annotations

import dataclasses
import socket as sockets
import tracemalloc

import pytest

from agent import abi
from agent.daemon.tracking.adoption import Adoption
from agent.daemon.tracking.consumers import local_consumer
from agent.daemon.tracking.flows import SETTLE_NS, FlowTable
from agent.kernel.tables.encode_rows import encode_flow, tuple_key
from agent.kernel.tables.rows import ProcessesAsStored, flow_of
from agent.model import (
    Address,
    Decision,
    Flow,
    HostFacts,
    Mode,
    Origin,
    PortClass,
    Process,
    Protocol,
    Reason,
    Socket,
    Target,
    Verdict,
    to_address,
    to_network,
)
from agent.observe.connections import Connection
from agent.policy.tables.shape import Numbered, SetId, Tables, TargetKey, TargetRow, empty_tables
from agent.policy.values import Unresolved
from tests.unit.daemon.worlds import (
    DB,
    ELSEWHERE,
    HERE,
    GoneProcesses,
    MemoryCounters,
    Modes,
    new_names,
    numbered,
)

HOST, CONTAINER = 1, 2
FACTS = HostFacts(host_netns=HOST, addresses=(HERE,))
NOW_NS = 10 * SETTLE_NS
SERVER = Process(pid=20, start_boot_ns=2, exe="/usr/bin/postgres", comm="postgres", uid=26, gid=26)
CLIENT = Process(pid=30, start_boot_ns=3, exe="/usr/bin/psql", comm="psql", uid=1000, gid=1000, cgroup_id=9)


def tables(home_netns: int = HOST) -> Tables:
    """10.0.0.1:5432 is target 1, which no license covers."""
    row = TargetRow(
        id=1,
        target=Target("db", PortClass.INTERNAL),
        mode=Mode.OBSERVE,
        unresolved=Unresolved.ALLOW,
        clock_synced=True,
        drops=False,
        excluded=SetId.EMPTY,
        home_netns=home_netns,
        candidates=(),
    )
    key = TargetKey(netns=0, protocol=Protocol.TCP, ports=1, network=to_network("10.0.0.1/32"))
    numbers = (Numbered(5432, 5432, 1),)
    return dataclasses.replace(empty_tables(), targets={key: 1}, rows={1: row}, numbers=numbers)


def end(local: Address, local_port: int, remote: Address, remote_port: int, *, netns: int = HOST) -> Socket:
    return Socket(
        protocol=Protocol.TCP,
        family=sockets.AF_INET,
        state=1,
        local=local,
        local_port=local_port,
        remote=remote,
        remote_port=remote_port,
        inode=local_port,
        cookie=local_port,
        uid=0,
        netns=netns,
    )


def connection(*, port: int = 5432, sport: int = 40001, netns: int = HOST) -> Connection:
    """Both ends on this host."""
    return Connection(
        consumer=end(HERE, sport, HERE, port, netns=netns),
        server=end(HERE, port, HERE, sport),
        consumer_processes=(CLIENT,),
        server_processes=(SERVER,),
    )


def from_outside(sport: int = 50000) -> Connection:
    server = dataclasses.replace(end(HERE, 5432, ELSEWHERE, sport), cookie=sport)
    return Connection(consumer=None, server=server, server_processes=(SERVER,))


class World:
    def __init__(self) -> None:
        self.counters = MemoryCounters()
        self.names = new_names()
        self.served: dict[tuple[int, int, Address], Process] = {}
        self.untrusted: set[int] = set()
        """Processes in a mount namespace that an unprivileged user made."""
        self.table = FlowTable(self.counters, self.names, GoneProcesses(), numbered(), self)  # type: ignore[arg-type]
        self.adoption = Adoption(self.table, self.counters, self.names, numbered(), self, Modes())  # type: ignore[arg-type]

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        return self.served.get((netns, port, address))

    def names_are_trusted(self, pid: int) -> bool:
        return pid not in self.untrusted

    def adopt(self, *connections: Connection, home_netns: int = HOST) -> list[Flow]:
        unseen = self.adoption.unseen(connections, FACTS)
        adopted = self.adoption.adopt(unseen, tables(home_netns), NOW_NS)
        return [one.flow for one in adopted]

    def row(
        self,
        cookie: int,
        *,
        opened_ns: int = 0,
        netns: int = HOST,
        target: int = 1,
        state: int = 2,
        server_cookie: int = 0,
    ) -> None:
        """A row that a program made."""
        raw = abi.Flow(
            opened_ns=opened_ns,
            server_cookie=server_cookie,
            consumer=abi.Identity(pid=30, netns=netns),
            state=state,
            verdict=abi.Verdict(target=target, origin=Origin.LOOPBACK, protocol=6),
            local=abi.RawAddress.of(HERE),
            local_port=cookie,
            remote=abi.RawAddress.of(HERE),
            remote_port=5432,
        )
        self.counters.flows.put(abi.U64.pack(cookie), bytes(raw))

    def cookies(self) -> set[int]:
        return {flow.cookie for flow in self.table.rows()}


@pytest.fixture
def world() -> World:
    return World()


@pytest.mark.parametrize("origin", list(Origin))
def test_a_flow_that_is_written_down_reads_back_the_same(world: World, origin: Origin) -> None:
    remote = origin is Origin.REMOTE
    written = Flow(
        cookie=77,
        target=1,
        consumer=None if remote else dataclasses.replace(CLIENT, comm="", gids=(1000,), netns=CONTAINER),
        consumer_address=ELSEWHERE,
        consumer_port=50000,
        address=HERE,
        port=5432,
        owner=dataclasses.replace(SERVER, comm="", gids=(26,)),
        acceptor=Process(pid=21, start_boot_ns=5, exe="/usr/bin/postgres"),
        verdict=Verdict(Decision.GRACE, Reason.EXPIRED, target=1, grant=4),
        origin=origin,
        protocol=Protocol.TCP,
        opened_boot_ns=11,
        established=True,
        pre_existing=True,
        netns=CONTAINER,
    )
    assert flow_of(77, encode_flow(written, world.names.note), ProcessesAsStored(world.names)) == written


def test_a_connection_from_before_is_judged_counted_and_followed(world: World) -> None:
    (flow,) = world.adopt(connection())
    assert flow.verdict.decision is Decision.DENIED
    assert flow.verdict.reason is Reason.NO_LICENSE
    assert (flow.consumer, flow.owner, flow.acceptor) == (CLIENT, SERVER, SERVER)
    assert (flow.consumer_address, flow.consumer_port, flow.address, flow.port) == (HERE, 40001, HERE, 5432)
    assert flow.pre_existing
    assert world.counters.found == [(flow.verdict, Origin.LOOPBACK)]
    assert world.counters.opened_closed([1]) == {1: (1, 0)}
    assert world.cookies() == {40001}


def test_a_connection_is_adopted_once_though_the_daemon_starts_again(world: World) -> None:
    world.adopt(connection(), from_outside())
    assert world.adopt(connection(), from_outside()) == []
    assert len(world.counters.found) == 2


def test_what_a_program_follows_already_is_left_to_it(world: World) -> None:
    world.row(40001)
    assert world.adopt(connection()) == []
    assert world.counters.found == []


def test_a_connection_followed_by_its_other_end_is_not_adopted(world: World) -> None:
    world.adopt(connection())
    only_server_seen = Connection(consumer=None, server=end(HERE, 5432, HERE, 40001))
    assert world.adopt(only_server_seen) == []


def test_a_connection_whose_local_consumer_is_gone_is_closing_and_not_new(world: World) -> None:
    assert world.adopt(Connection(consumer=None, server=end(HERE, 5432, HERE, 40001))) == []


def test_a_row_the_kernel_made_meanwhile_wins(world: World) -> None:
    unseen = world.adoption.unseen([connection()], FACTS)
    world.row(40001)
    assert world.adoption.adopt(unseen, tables(), NOW_NS) == []
    assert world.counters.found == []


def test_a_connection_to_an_undeclared_port_is_left_alone(world: World) -> None:
    assert world.adopt(connection(port=9999)) == []
    assert world.cookies() == set()
    assert world.counters.found == []


def test_a_consumer_from_elsewhere_is_remote(world: World) -> None:
    (flow,) = world.adopt(from_outside())
    assert flow.origin is Origin.REMOTE
    assert flow.consumer is None
    assert (flow.consumer_address, flow.consumer_port) == (ELSEWHERE, 50000)


@pytest.mark.parametrize(
    ("netns", "home_netns", "origin"),
    [
        (HOST, HOST, Origin.LOOPBACK),
        (CONTAINER, HOST, Origin.CONTAINER),
        (CONTAINER, CONTAINER, Origin.LOOPBACK),
        (HOST, CONTAINER, Origin.CONTAINER),
    ],
)
def test_origin_is_the_consumers_namespace_against_the_services(
    world: World, netns: int, home_netns: int, origin: Origin
) -> None:
    (flow,) = world.adopt(connection(netns=netns), home_netns=home_netns)
    assert flow.origin is origin


def test_only_rows_whose_socket_is_gone_are_swept(world: World) -> None:
    world.row(1)
    world.row(2)
    assert world.table.sweep(frozenset({1}), frozenset({HOST}), NOW_NS) == 1
    assert world.cookies() == {1}
    assert world.counters.opened_closed([1]) == {1: (0, 1)}
    assert world.counters.closed_unseen([1]) == 1


def test_to_sweep_many_takes_the_memory_of_few(world: World) -> None:
    many = 1_000
    for number in range(many):
        world.row(number)
    tracemalloc.start()
    try:
        assert world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS) == many
        assert tracemalloc.get_traced_memory()[1] < 400 * many, "bytes; a Flow has some 1,000"
    finally:
        tracemalloc.stop()


def test_rows_are_counted_and_left_out_by_namespace(world: World) -> None:
    for cookie, netns in ((1, HOST), (2, CONTAINER), (3, CONTAINER)):
        world.row(cookie, netns=netns)
    assert world.table.per_namespace() == {HOST: 1, CONTAINER: 2}
    assert [flow.cookie for flow in world.table.rows_outside({CONTAINER})] == [1]


def test_sockets_of_flows_are_those_of_both_ends_as_far_as_they_are_here(world: World) -> None:
    assert world.table.sockets() == frozenset()
    world.row(1, server_cookie=7)
    world.row(2)
    world.counters.flows.put(abi.U64.pack(abi.SPARE_FLOW | 3), bytes(abi.Flow(server_cookie=9)))
    assert world.table.sockets() == {1, 2, 7}


def test_a_young_row_is_given_time(world: World) -> None:
    world.row(1, opened_ns=NOW_NS - SETTLE_NS + 1)
    assert world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS) == 0
    assert world.cookies() == {1}
    assert world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS + 1) == 1


def test_one_from_before_is_given_none(world: World) -> None:
    """Its socket was there when it got its row."""
    (flow,) = world.adopt(connection())
    assert world.table.sweep(frozenset(), frozenset({HOST}), flow.opened_boot_ns) == 1


def test_rows_of_a_namespace_that_was_not_looked_at_stay(world: World) -> None:
    world.row(1, netns=CONTAINER)
    world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS)
    assert world.cookies() == {1}


@pytest.mark.parametrize("state", [abi.FlowState.ATTEMPT, abi.FlowState.SYN])
def test_an_attempt_that_never_opened_is_swept_and_is_no_close(world: World, state: abi.FlowState) -> None:
    world.row(1, state=state)
    assert world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS) == 0
    assert world.cookies() == set()
    assert world.counters.closed_unseen([1]) == 0


def test_flows_are_listed_oldest_first_and_only_those_of_a_named_target(world: World) -> None:
    world.row(1, opened_ns=5)
    world.row(2, opened_ns=3)
    world.row(3, target=99)
    assert [(target, flow.cookie) for target, flow in world.table.listed()] == [(DB, 2), (DB, 1)]


def test_an_owner_the_kernel_does_not_know_is_whoever_listens_there(world: World) -> None:
    world.row(1)
    assert next(world.table.listed())[1].owner is None
    world.served[HOST, 5432, HERE] = SERVER
    assert next(world.table.listed())[1].owner == SERVER


def test_a_process_is_judged_in_its_cgroup_and_every_one_above() -> None:
    process = dataclasses.replace(CLIENT, cgroup="/system.slice/app.service/worker", gids=(1000, 4))
    consumer = local_consumer(process, HOST)
    assert consumer.cgroups == (
        "/system.slice/app.service/worker",
        "/system.slice/app.service",
        "/system.slice",
    )
    assert (consumer.exe, consumer.uid, consumer.gids, consumer.netns) == (
        "/usr/bin/psql",
        1000,
        frozenset({4, 1000}),
        HOST,
    )


def test_a_name_that_is_not_trusted_matches_nothing_though_it_is_known() -> None:
    assert local_consumer(CLIENT, HOST, name_is_trusted=False).exe == ""


def test_a_process_without_a_name_or_cgroup_is_unknown_rather_than_empty() -> None:
    consumer = local_consumer(Process(pid=1), HOST)
    assert consumer.exe is None
    assert consumer.cgroups == ()


def test_a_swept_row_takes_along_what_the_passive_side_would_look_for(world: World) -> None:
    world.row(1)
    (flow,) = world.table.rows()
    world.counters.tuples.put(tuple_key(flow), abi.U64.pack(1))
    world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS)
    assert world.counters.tuples.get(tuple_key(flow)) is None


def test_but_not_what_another_socket_with_the_same_addresses_has_there_now(world: World) -> None:
    world.row(1)
    (flow,) = world.table.rows()
    world.counters.tuples.put(tuple_key(flow), abi.U64.pack(2))
    world.table.sweep(frozenset(), frozenset({HOST}), NOW_NS)
    assert world.counters.tuples.get(tuple_key(flow)) == abi.U64.pack(2)


@pytest.mark.parametrize(("address", "netns"), [("127.0.0.1", HOST), ("10.0.0.1", 0)])
def test_the_key_of_a_tuple_names_a_namespace_only_where_its_address_needs_one(
    world: World, address: str, netns: int
) -> None:
    world.row(1)
    (flow,) = world.table.rows()
    key = tuple_key(dataclasses.replace(flow, address=to_address(address)))
    assert abi.TUPLE.unpack(key)[0] == netns
