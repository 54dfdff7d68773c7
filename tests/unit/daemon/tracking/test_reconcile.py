"""Looks at the host: where connections from before are looked for, which rows go, which cgroups came."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest

from agent import abi
from agent.daemon.tracking.adoption import Adoption, followed_socket
from agent.daemon.tracking.flows import SETTLE_NS, FlowTable
from agent.daemon.tracking.reconcile import ONE_BY_ONE, SWEPT_EACH, HostFollower, _new_ports
from agent.model import Flow, HostFacts, Namespace, Origin, to_address
from agent.observe.connections import Connection
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables
from tests.unit.daemon.tracking.test_flows import connection
from tests.unit.daemon.worlds import DB as DB_TARGET
from tests.unit.daemon.worlds import HERE, GoneProcesses, MemoryCounters, Modes, new_names, numbered

DB = "db: {product: a, ports: [{port: 5432, class: internal}]}"
RANGE = "data: {product: a, ports: [{port: 40000-40009, class: internal}]}"
MOVED = "data: {product: a, ports: [{port: 50000-50009, class: internal}]}"


def compiled(*services: str, addresses: tuple[str, ...] = ("192.0.2.1",)) -> Tables:
    text = "version: 1\nservices:\n" + "".join(f"  {service}\n" for service in services)
    facts = HostFacts(7, tuple(map(to_address, addresses)))
    return compile_policy(parse_policy(text), facts, Ids()).tables


@pytest.mark.parametrize(
    ("before", "now", "wanted"),
    [
        ((), (DB,), {5432}),
        ((DB,), (DB,), set()),
        ((DB, RANGE), (DB,), set()),
        ((RANGE,), (MOVED,), set(range(50000, 50010))),
        # what stays has another number: a look too many
        ((RANGE,), (DB, RANGE), {5432, *range(40000, 40010)}),
    ],
)
def test_ports_that_are_declared_anew_are_looked_at(
    before: tuple[str, ...], now: tuple[str, ...], wanted: set[int]
) -> None:
    tables = [compiled(*services) if services else compiled(DB) for services in (before, now)]
    known = (tables[0].numbers, frozenset(tables[0].targets)) if before else ((), frozenset())
    assert set(_new_ports((tables[1].numbers, frozenset(tables[1].targets)), known)) == wanted


def test_a_new_address_is_a_new_place_for_every_port() -> None:
    before, now = compiled(DB, RANGE), compiled(DB, RANGE, addresses=("192.0.2.1", "192.0.2.2"))
    known = (before.numbers, frozenset(before.targets))
    assert set(_new_ports((now.numbers, frozenset(now.targets)), known)) == {5432, *range(40000, 40010)}


OWN, OTHER = Namespace(1, 1, "/proc/1/ns/net"), Namespace(2, 2, "/proc/2/ns/net")
LOOK_S = 10.0


@dataclass
class Sockets:
    """What sock_diag would list in one namespace."""

    cookies_there: set[int] = field(default_factory=set)
    moved: set[int] = field(default_factory=set)
    """There, and by other addresses than somebody remembers."""
    asked: list[int] = field(default_factory=list)
    listed: int = 0

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None: ...

    def has(self, cookie: int, local: object, remote: object) -> bool:
        self.asked.append(cookie)
        return cookie in self.cookies_there - self.moved

    def cookies(self) -> set[int]:
        self.listed += 1
        return self.cookies_there


class Host:
    """One with a policy, two network namespaces, and rows of flows."""

    def __init__(self) -> None:
        part: Any = self
        self.sockets = {1: Sockets(), 2: Sockets()}
        self.tables: Tables | None = None
        self.facts: HostFacts | None = HostFacts(1, (HERE,), namespaces=(OTHER,))
        self.policy = None
        self.now_s = 1000.0
        self.connected: list[Connection] = []
        self.cgroups: dict[str, int] = {}
        self.done: list[tuple[Any, ...]] = []
        self.unnamed_since_s: dict[str, float] = {}
        self.counters, names = MemoryCounters(), new_names()
        self.flows = FlowTable(self.counters, names, GoneProcesses(), numbered(DB_TARGET), part)  # type: ignore[arg-type]
        adoption = Adoption(self.flows, self.counters, names, numbered(DB_TARGET), part, Modes())  # type: ignore[arg-type]
        self.follower = HostFollower(
            part, part, self.flows, adoption, part, part, part, LOOK_S, clock=lambda: self.now_s
        )

    inventory = property(lambda self: self)
    roots = property(lambda self: self)

    def connections(self, ports: Iterable[int], without: frozenset[int]) -> list[Connection]:
        self.done.append(("connections", tuple(ports), without))
        return [one for one in self.connected if followed_socket(one).cookie not in without]

    def look(self, policy: object, facts: object) -> list[Any]:
        return []

    def own(self) -> Namespace:
        return OWN

    def names_are_trusted(self, pid: int) -> bool:
        return True

    def owner_of(self, *_: object) -> None:
        return None

    def follow_host(self) -> None:
        self.done.append(("host",))

    def read_cgroups(self) -> dict[str, int]:
        return self.cgroups

    def cgroup_made(self, number: int, path: str, *, by_root: bool) -> None:
        self.done.append(("made", number, path))

    def cgroups_gone(self, numbers: Iterable[int], paths: Iterable[str]) -> None:
        self.done.append(("gone", list(numbers), list(paths)))

    def forget_cgroups(self, there: Iterable[int]) -> frozenset[int]:
        return frozenset()

    def only_root_makes(self, path: str) -> bool:
        return True

    def forget_all_but(self, there: object) -> None: ...

    def name_containers(self) -> None: ...

    def row(self, cookie: int, netns: int = 1) -> None:
        """Of a flow that is long settled."""
        raw = abi.Flow(
            opened_ns=1,
            consumer=abi.Identity(pid=30, netns=netns),
            state=abi.FlowState.OPEN,
            verdict=abi.Verdict(target=1, origin=Origin.LOOPBACK, protocol=6),
            local=abi.RawAddress.of(HERE),
            local_port=cookie % 65536,
            remote=abi.RawAddress.of(HERE),
            remote_port=5432,
        )
        self.counters.flows.put(abi.U64.pack(cookie), bytes(raw))

    def after(self, looks: float) -> list[Flow]:
        """Adopted at a look so many looks later."""
        self.now_s += looks * LOOK_S
        return [one.flow for one in self.follower.look().adopted]

    def rows(self) -> set[int]:
        return {flow.cookie for flow in self.flows.rows()}


@pytest.fixture
def host(monkeypatch: pytest.MonkeyPatch) -> Host:
    made = Host()

    def in_each(namespaces: Iterable[Namespace], work: Callable[[Namespace], Any]) -> list[Any]:
        return [work(one) for one in namespaces]

    monkeypatch.setattr("agent.daemon.tracking.reconcile.in_each", in_each)
    monkeypatch.setattr("agent.daemon.tracking.reconcile.SocketDiag", made.sockets.__getitem__)
    monkeypatch.setattr("agent.daemon.tracking.reconcile.boot_ns", lambda: 10 * SETTLE_NS)
    return made


def test_without_facts_there_is_nothing_to_look_at(host: Host) -> None:
    host.facts = None
    assert host.after(SWEPT_EACH) == []
    assert host.done == []


def test_rows_whose_socket_is_gone_go_and_the_others_stay(host: Host) -> None:
    for cookie in (10, 11):
        host.row(cookie)
    host.row(20, netns=2)
    host.sockets[1].cookies_there = {10}
    host.after(SWEPT_EACH)
    assert host.rows() == {10}


def test_one_that_is_there_by_other_addresses_is_not_gone(host: Host) -> None:
    host.row(10)
    host.sockets[1] = Sockets(cookies_there={10}, moved={10})
    host.after(SWEPT_EACH)
    assert host.rows() == {10}
    assert host.sockets[1].listed == 1


def test_rows_of_a_namespace_that_is_not_seen_any_more_stay(host: Host) -> None:
    """Nobody has looked whether their sockets are there."""
    host.row(30, netns=3)
    host.after(SWEPT_EACH)
    assert host.rows() == {30}


def test_of_many_sockets_a_list_is_read_and_of_few_each_is_asked_for(host: Host) -> None:
    for cookie in range(ONE_BY_ONE + 1):
        host.row(cookie + 1)
    host.row(2000, netns=2)
    host.sockets[1].cookies_there, host.sockets[2].cookies_there = {1, 2}, {2000}
    host.after(SWEPT_EACH)
    assert host.rows() == {1, 2, 2000}
    assert (host.sockets[1].asked, host.sockets[1].listed) == ([], 1)
    assert (host.sockets[2].asked, host.sockets[2].listed) == ([2000], 0)


def test_they_are_looked_for_again_sooner_while_closes_stay_unseen(host: Host) -> None:
    host.row(10)
    host.after(SWEPT_EACH)
    host.row(11)
    host.after(1)
    assert host.rows() == set(), "one had closed unseen: the next look sweeps, too"
    host.after(1)
    host.row(12)
    host.after(1)
    assert host.rows() == {12}


def test_connections_from_before_are_looked_for_where_ports_are_new(host: Host) -> None:
    host.tables = compiled(DB, addresses=("10.0.0.1",))
    host.connected = [connection(sport=40001), connection(sport=40002)]
    host.sockets[1].cookies_there = {40001}
    assert [flow.cookie for flow in host.after(0.1)] == [40001], "the other has closed meanwhile"
    assert host.after(0.1) == []
    assert host.done == [("connections", (5432,), frozenset())]


def test_of_connections_that_have_a_row_nothing_is_asked(host: Host) -> None:
    host.tables = compiled(DB, addresses=("10.0.0.1",))
    host.connected = [connection(sport=40001), connection(sport=40002)]
    host.sockets[1].cookies_there = {40001, 40002}
    host.row(40001)
    assert [flow.cookie for flow in host.after(0.1)] == [40002]
    assert host.done == [("connections", (5432,), {40001})]


def test_cgroups_that_the_kernel_could_not_tell_of_are_met_at_a_look(host: Host) -> None:
    host.cgroups = {"/a": 1, "/b": 2}
    host.follower.follow()
    assert host.done == [("host",), ("made", 1, "/a"), ("made", 2, "/b"), ("gone", [], [])]
    host.done.clear()
    host.cgroups = {"/b": 3}
    host.follower.follow()
    assert host.done == [("host",), ("made", 3, "/b"), ("gone", [1, 2], ["/a"])]
