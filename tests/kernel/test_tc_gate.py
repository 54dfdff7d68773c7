"""The packet gate by itself, on the interfaces of a laboratory: whom it refuses, what it counts, and that it
leaves no trace."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import TypeVar

import pytest

from agent import abi
from agent.errors import KernelError
from agent.model import Decision, Namespace, Origin
from agent.observe.route_watch import LinkWatch
from agent.system.netns import run_in_namespace
from tests.fixtures import namespaces, processes
from tests.fixtures.clients import dial
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Namespace as Place
from tests.fixtures.waiting import wait_for
from tests.kernel.tc_world import (
    CLOSED,
    FAR,
    INTERFACES,
    LICENSED,
    OPEN,
    SILENT,
    SYN,
    UNDECLARED,
    UNLICENSED,
    PacketClient,
    RawClient,
    Segment,
    TcWorld,
    Tun,
    connect,
    link_address,
    namespace,
    tc,
)

pytestmark = pytest.mark.root

T = TypeVar("T")

V4, V6 = "10.77.2.1", "fd77:2::1"
REFUSED = "ECONNREFUSED"


@pytest.fixture(scope="module")
def world() -> Iterator[TcWorld]:
    with TcWorld() as made:
        yield made


@pytest.mark.parametrize("address", [V4, V6])
def test_an_unlicensed_address_is_refused_and_counted_once(world: TcWorld, address: str) -> None:
    denied = (Origin.REMOTE, Decision.DENIED)
    with world.attached():
        refused, attempts = world.refused(), world.attempts().get(denied, 0)
        assert connect(world.lab.remote, address, CLOSED) == REFUSED
        assert world.refused() == refused + 1
        assert world.attempts()[denied] == attempts + 1


@pytest.mark.parametrize("address", [V4, V6])
def test_a_licensed_address_passes(world: TcWorld, address: str) -> None:
    allowed = (Origin.REMOTE, Decision.ALLOWED)
    with world.attached():
        refused, attempts = world.refused(), world.attempts().get(allowed, 0)
        assert connect(world.lab.remote, address, OPEN) == ""
        assert world.refused() == refused
        assert world.attempts()[allowed] == attempts + 1, "counted where it was established"


def test_observe_refuses_nothing(world: TcWorld) -> None:
    with world.attached("observe"):
        refused = world.refused()
        assert connect(world.lab.remote, V4, CLOSED) == ""
        assert world.refused() == refused


def test_nothing_is_refused_before_the_gate_is_said_to_be_there(world: TcWorld) -> None:
    with world.attached():
        world.maps.set_gates([])
        with closing(world.pins.open_map("judged_syns")) as judged:
            before = set(judged)
            try:
                assert connect(world.lab.remote, V4, CLOSED) == ""
                assert set(judged) == before, "nor said to the socket gate to be right"
            finally:
                world.maps.set_gates(["tc"])


def test_undeclared_and_failsafe_ports_pass(world: TcWorld) -> None:
    with world.attached():
        assert connect(world.lab.remote, V4, UNDECLARED) == ""
        world.maps.set_failsafe([CLOSED])
        try:
            assert connect(world.lab.remote, V4, CLOSED) == ""
        finally:
            world.maps.set_failsafe([])


def ip4_options(words: int) -> list[tuple[int, int, bytes]]:
    """Of no-operations and an end."""
    return [(socket.IPPROTO_IP, socket.IP_OPTIONS, b"\x01" * (words * 4 - 1) + b"\x00")]


def ip6_headers(*kinds: int) -> list[tuple[int, int, bytes]]:
    """Extension headers of 8 bytes: next header, length, and padding (RFC 8200)."""
    padded = bytes([0, 0, 1, 4]) + bytes(4)
    return [(socket.IPPROTO_IPV6, kind, padded) for kind in kinds]


@pytest.mark.parametrize(
    ("address", "options"),
    [
        (V4, ip4_options(1)),
        (V4, ip4_options(10)),
        (V6, ip6_headers(socket.IPV6_HOPOPTS)),
        (V6, ip6_headers(socket.IPV6_HOPOPTS, socket.IPV6_DSTOPTS)),
    ],
)
def test_what_stands_before_the_tcp_header_hides_nothing(
    world: TcWorld, address: str, options: list[tuple[int, int, bytes]]
) -> None:
    with world.attached():
        refused = world.refused()
        assert connect(world.lab.remote, address, CLOSED, options) == REFUSED
        assert world.refused() == refused + 1
        assert connect(world.lab.remote, address, OPEN, options) == ""


def syn(sequence: int, source: str = "10.77.2.2", source_port: int = 40001, port: int = CLOSED) -> Segment:
    return Segment(source, V4, source_port, port, sequence, SYN)


def test_a_syn_sent_again_is_answered_again_and_counts_once(world: TcWorld) -> None:
    denied = (Origin.REMOTE, Decision.DENIED)
    with world.attached(), RawClient(world.lab.remote) as raw:
        refused, attempts = world.refused(), world.attempts().get(denied, 0)
        for sequence, count in ((100, 1), (100, 1), (0xFFFFFFFF, 2)):
            assert raw.ask(syn(sequence)) == syn(sequence).answered()
            assert world.refused() == refused + count
            assert world.attempts()[denied] == attempts + count


def test_where_the_service_says_so_a_refused_syn_is_dropped(world: TcWorld) -> None:
    with world.attached(), RawClient(world.lab.remote) as raw:
        refused = world.refused()
        for sequence, count in ((100, 1), (100, 1), (200, 2)):
            raw.send(syn(sequence, port=SILENT))
            assert world.refused() == refused + count
        assert raw.ask(syn(1, port=CLOSED)) == syn(1).answered(), "answers do come back"
        raw.send(syn(2, port=SILENT))
        assert not raw.has_heard_from(SILENT)


def test_who_may_is_not_dropped(world: TcWorld) -> None:
    lab = world.lab
    with world.attached():
        assert dial(lab, lab.container, "plain", "10.77.1.1", SILENT, uid=LICENSED)["error"] == ""


def test_an_interface_without_a_link_layer_is_answered_too(world: TcWorld) -> None:
    with Tun(world.lab.host, "tun0") as tun, world.attached() as gate:
        assert "tun0" in {place.interface for place in gate.attached()}
        assert tun.ask(syn(7, "10.77.9.9")) == syn(7, "10.77.9.9").answered()


def test_a_packet_that_no_socket_sent_is_judged_by_its_address(world: TcWorld) -> None:
    container, to = world.lab.container, link_address(world.lab.host, "to-container")
    with world.attached(), PacketClient(container, "eth0", to) as packets:
        injected = Segment("10.77.1.2", "10.77.1.1", 40002, CLOSED, 9, SYN)
        refused = world.refused()
        assert packets.ask(injected) == injected.answered()
        assert world.refused() == refused + 1


@pytest.mark.parametrize("address", ["10.77.1.1", "fd77:1::1", V4])
def test_a_container_is_judged_by_its_process(world: TcWorld, address: str) -> None:
    lab = world.lab
    denied = (Origin.CONTAINER, Decision.DENIED)
    with world.attached():
        assert dial(lab, lab.container, "plain", address, CLOSED, uid=LICENSED)["error"] == ""
        refused, attempts = world.refused(), world.attempts().get(denied, 0)
        remote = world.attempts().get((Origin.REMOTE, Decision.DENIED), 0)
        assert dial(lab, lab.container, "plain", address, CLOSED, uid=UNLICENSED)["error"] == REFUSED
        assert world.refused() == refused + 1
        assert world.attempts()[denied] == attempts + 1
        assert world.attempts().get((Origin.REMOTE, Decision.DENIED), 0) == remote


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.77.1.1", "fd77:1::1"])
def test_loopback_is_judged_by_its_process(world: TcWorld, address: str) -> None:
    lab = world.lab
    with world.attached():
        assert dial(lab, lab.host, "plain", address, CLOSED, uid=LICENSED)["error"] == ""
        refused = world.refused()
        assert dial(lab, lab.host, "plain", address, CLOSED, uid=UNLICENSED)["error"] == REFUSED
        assert world.refused() == refused + 1


def test_what_was_said_in_the_first_namespace_stands_in_the_second(world: TcWorld) -> None:
    """There, nothing tells which socket a packet came from, and its address has no licence."""
    lab, remote = world.lab, namespace(world.lab.remote)
    with world.attached(places=[remote]) as gate:
        assert (remote.cookie, "eth0") in {(place.netns, place.interface) for place in gate.attached()}
        assert dial(lab, lab.container, "plain", "10.77.2.2", FAR, uid=LICENSED)["error"] == ""
        refused = world.refused()
        assert dial(lab, lab.container, "plain", "10.77.2.2", FAR, uid=UNLICENSED)["error"] == REFUSED
        assert connect(lab.container, "10.77.2.2", FAR) == REFUSED
        assert world.refused() == refused + 2


def test_a_tuple_made_in_another_namespace_speaks_for_nobody(world: TcWorld, forger: Place) -> None:
    """A licensed user connects from 10.77.2.2 to 10.77.2.1, but in a network of his own; then the SYN of that
    very connection comes from outside."""
    tuples = world.pins.open_map("tuples")
    before = set(tuples)
    client = [processes.PYTHON, "-Ic", STUCK, V4, str(CLOSED)]
    with closing(tuples), world.attached(), RawClient(world.lab.remote) as raw:
        world.lab.run(forger, client, uid=LICENSED)
        (forged,) = wait_for(lambda: set(tuples) - before, "a tuple of the stuck connection")
        _, _, _, port, _, _ = abi.TUPLE.unpack(forged)
        assert raw.ask(syn(1, source_port=port)) == syn(1, source_port=port).answered()


STUCK = """
import socket, sys
client = socket.socket()
client.connect((sys.argv[1], int(sys.argv[2])))
"""


@pytest.fixture
def forger(world: TcWorld) -> Iterator[Place]:
    """A network in which 10.77.2.1 never answers."""
    place = Place(f"{new_name()}-forger", "10.77.2.2", "")
    inside = ("-n", place.name)
    try:
        namespaces.create(place)
        namespaces.ip(*inside, "link", "add", "one", "type", "veth", "peer", "name", "two")
        for name in ("one", "two"):
            namespaces.ip(*inside, "link", "set", name, "up")
        namespaces.ip(*inside, "address", "add", "10.77.2.2/24", "dev", "one")
        namespaces.ip(*inside, "neighbour", "add", V4, "lladdr", "02:00:00:00:00:01", "dev", "one")
        yield place
    finally:
        namespaces.remove(place.name)


def test_it_leaves_no_trace(world: TcWorld) -> None:
    host = world.lab.host
    before = {name: tc(host, "qdisc", "show", "dev", name) for name in INTERFACES}
    with world.attached() as gate:
        assert {place.interface for place in gate.attached()} == set(INTERFACES)
        assert gate.hidden() == []
        assert gate.failed() == {}
    assert {name: tc(host, "qdisc", "show", "dev", name) for name in INTERFACES} == before


def filters(world: TcWorld, interface: str, side: str = "ingress") -> str:
    return tc(world.lab.host, "filter", "show", "dev", interface, side)


def test_one_filter_however_often_and_by_however_many_agents(world: TcWorld) -> None:
    with world.attached() as gate:
        gate.sync([world.host])
        after_a_restart = world.gate()
        after_a_restart.sync([world.host])
        assert filters(world, "to-remote").count(world.filter_name) == 1
        assert connect(world.lab.remote, V4, CLOSED) == REFUSED
        after_a_restart.detach()
        assert "clsact" not in tc(world.lab.host, "qdisc", "show", "dev", "to-remote")


@pytest.fixture
def others_qdisc(world: TcWorld) -> Iterator[None]:
    """Another tool has a clsact qdisc and an egress filter."""
    tc(world.lab.host, "qdisc", "add", "dev", "to-remote", "clsact")
    try:
        add_filter(world, "egress", "1", "u32")
        yield
        assert "u32" in filters(world, "to-remote", "egress")
    finally:
        tc(world.lab.host, "qdisc", "del", "dev", "to-remote", "clsact")


def add_filter(world: TcWorld, side: str, priority: str, kind: str) -> None:
    """One that lets everything go on. The program, without a class, knows no namespace."""
    place = ["filter", "add", "dev", "to-remote", side, "prio", priority]
    if kind == "u32":
        matches = ["u32", "match", "ip", "src", "192.0.2.1/32", "classid", "1:1"]
        tc(world.lab.host, *place, "protocol", "ip", *matches)
        return
    with world.pinned_program() as path:
        tc(world.lab.host, *place, "handle", "1", "bpf", "direct-action", "object-pinned", str(path))


@pytest.mark.usefixtures("others_qdisc")
@pytest.mark.parametrize(
    ("kind", "priority", "hides"), [("bpf", "1", False), ("u32", "1", True), ("u32", "2", False)]
)
def test_filters_of_others_stay(world: TcWorld, kind: str, priority: str, hides: bool) -> None:
    add_filter(world, "ingress", priority, kind)
    before = filters(world, "to-remote")
    with world.attached() as gate:
        gate.sync([world.host])
        assert [place.interface for place in gate.hidden()] == (["to-remote"] if hides else [])
        assert filters(world, "to-remote").count(world.filter_name) == 1
        assert connect(world.lab.remote, V4, CLOSED) == REFUSED
    assert filters(world, "to-remote") == before


@pytest.mark.usefixtures("others_qdisc")
def test_a_filter_put_before_ours_is_told(world: TcWorld) -> None:
    with world.attached() as gate:
        with world.pinned_program() as path:
            arguments = "filter add dev to-remote ingress prio 1 handle 9 bpf direct-action object-pinned"
            tc(world.lab.host, *arguments.split(), str(path))
        gate.sync([world.host])
        assert [place.interface for place in gate.hidden()] == ["to-remote"]


def test_interfaces_and_namespaces_that_are_no_longer_wanted_are_let_go(world: TcWorld) -> None:
    container = namespace(world.lab.container)
    with world.attached(places=[container]) as gate:
        assert {(place.netns, place.interface) for place in gate.attached()} == {
            *((world.host.cookie, name) for name in INTERFACES),
            (container.cookie, "lo"),
            (container.cookie, "eth0"),
        }
        gate.sync([world.host])
        assert {place.netns for place in gate.attached()} == {world.host.cookie}
        assert "clsact" not in tc(world.lab.container, "qdisc", "show", "dev", "eth0")
        fewer = world.gate(["to-remote"])
        fewer.sync([world.host])
        assert [place.interface for place in fewer.attached()] == ["to-remote"]
        assert filters(world, "lo") == ""


def test_what_was_removed_comes_back(world: TcWorld) -> None:
    with world.attached() as gate:
        tc(world.lab.host, "qdisc", "del", "dev", "to-remote", "clsact")
        assert connect(world.lab.remote, V4, CLOSED) == ""
        gate.sync([world.host])
        assert connect(world.lab.remote, V4, CLOSED) == REFUSED


def test_a_visit_that_fails_is_made_again(world: TcWorld) -> None:
    failures = [KernelError("the path has led elsewhere for a moment")]

    def run_in(namespace: Namespace, work: Callable[[], T]) -> T:
        if work is not LinkWatch and failures:
            raise failures.pop()
        return run_in_namespace(namespace, work)

    gate = world.gate(run_in=run_in)
    try:
        gate.sync([world.host])
        assert gate.attached() == []
        gate.sync([world.host])
        assert {place.interface for place in gate.attached()} == set(INTERFACES)
    finally:
        gate.detach()


def test_changes_of_interfaces_and_filters_are_announced(world: TcWorld) -> None:
    host = world.lab.host
    with namespaces.entered(host):
        watch = LinkWatch()
    with watch:
        namespaces.ip("-n", host.name, "link", "set", "to-remote", "alias", "changed")
        assert watch.changed()
        assert not watch.changed()
        with world.attached() as gate:
            watch.changed()
            gate.sync([world.host])
            assert not watch.changed(), "a look alone is no change"
            tc(host, "qdisc", "del", "dev", "to-remote", "clsact")
            assert watch.changed()
