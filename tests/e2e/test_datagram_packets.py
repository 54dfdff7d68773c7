"""UDP at the packet gate: a target that drops is silent, and what only passes through this host to a declared
place elsewhere is judged on its way."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, namespaces, processes
from tests.fixtures.another_host import another_host
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import Counts, connections, since

QUIET, LOUD, BEYOND, CLIENTS = 5310, 5311, 5312, 5313
LICENSED, UNLICENSED = {4: "10.77.2.3", 6: "fd77:2::3"}, {4: "10.77.2.2", 6: "fd77:2::2"}
"""Addresses of the remote host."""
POLICY = f"""\
version: 1
services:
  quiet: {{product: acme, on_deny: drop, ports: [{{port: {QUIET}, protocol: udp, class: internal}}]}}
  loud: {{product: acme, ports: [{{port: {LOUD}, protocol: udp, class: internal}}]}}
  beyond:
    product: acme
    at: [10.77.3.2, "fd77:3::2"]
    ports: [{{port: {BEYOND}, protocol: udp, class: internal}}]
  clients:
    product: zeta
    at: [10.77.2.0/24, "fd77:2::/64"]
    ports: [{{port: {CLIENTS}, protocol: udp, class: internal}}]
principals:
  licensed: [{{cidr: 10.77.2.3}}, {{cidr: "fd77:2::3"}}, {{uid: 1001}}]
  nobody: [{{uid: 60000}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
  - {{id: zeta, product: zeta, entitlements: [{{id: use, classes: [internal], principals: [nobody]}}]}}
enforcement: {{default: enforce}}
"""


@pytest.fixture(scope="module")
def beyond(shared_lab: Lab) -> Iterator[Namespace]:
    with another_host(shared_lab, "10.77.2.3/24", "fd77:2::3/64") as place:
        servers = [
            datagrams.serve(shared_lab, place, "::", BEYOND, cgroup=None),
            datagrams.serve(shared_lab, shared_lab.host, "::", QUIET),
            datagrams.serve(shared_lab, shared_lab.host, "::", LOUD),
        ]
        yield place
        for server in servers:
            processes.end(server)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, beyond: Namespace) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY, {"scope": {"interfaces": ["to-remote", "to-beyond"]}}) as running:
        yield running


@pytest.fixture(params=[4, 6])
def family(request: pytest.FixtureRequest) -> int:
    return int(request.param)


def refused(agent: RunningAgent, service: str, gate: str) -> float:
    return agent.total("licet_refused_total", service=service, gate=gate)


def send(lab: Lab, place: Namespace, address: str, port: int, source: str, source_port: int = 0) -> Sent:
    return datagrams.send(
        lab, place, "connect", address, port, count=3, source=source, source_port=source_port
    )


def counted(agent: RunningAgent, service: str, before: Counts, gate: str, gate_before: float) -> object:
    return since(before, agent, service), refused(agent, service, gate) - gate_before


def test_a_target_that_drops_is_silent(shared_lab: Lab, agent: RunningAgent, family: int) -> None:
    address = "10.77.2.1" if family == 4 else "fd77:2::1"
    before, tc = connections(agent, "quiet"), refused(agent, "quiet", "tc")
    assert send(shared_lab, shared_lab.remote, address, QUIET, UNLICENSED[family]) == Sent(0, {"silence": 3})
    assert counted(agent, "quiet", before, "tc", tc) == ({("remote", "denied"): 1}, 1)
    assert send(shared_lab, shared_lab.remote, address, QUIET, LICENSED[family]) == Sent(3)
    assert since(before, agent, "quiet") == {("remote", "denied"): 1, ("remote", "allowed"): 1}


def test_one_that_does_not_is_left_to_the_socket(shared_lab: Lab, agent: RunningAgent, family: int) -> None:
    """Which answers, and counts it."""
    address = "10.77.2.1" if family == 4 else "fd77:2::1"
    before, socket = connections(agent, "loud"), refused(agent, "loud", "socket")
    said = send(shared_lab, shared_lab.remote, address, LOUD, UNLICENSED[family])
    assert said.answered == 0
    assert said.errors["ECONNREFUSED"] >= 1
    assert counted(agent, "loud", before, "socket", socket) == ({("remote", "denied"): 1}, 1)
    assert refused(agent, "loud", "tc") == 0


def test_what_passes_through_is_judged_by_address(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, family: int
) -> None:
    address = beyond.v4 if family == 4 else beyond.v6
    before, tc = connections(agent, "beyond"), refused(agent, "beyond", "tc")
    assert send(shared_lab, shared_lab.remote, address, BEYOND, UNLICENSED[family]) == Sent(0, {"silence": 3})
    assert counted(agent, "beyond", before, "tc", tc) == ({("remote", "denied"): 1}, 1)
    assert send(shared_lab, shared_lab.remote, address, BEYOND, LICENSED[family]) == Sent(3)
    assert since(before, agent, "beyond") == {("remote", "denied"): 1, ("remote", "allowed"): 1}


@pytest.mark.parametrize("way", ["large", "option header"])
def test_in_whatever_shape(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, family: int, way: str
) -> None:
    """Its first fragment is refused, and the rest is of no use; extension headers hide nothing."""
    if way == "option header" and family == 4:
        pytest.skip("IPv4 has none")
    address = beyond.v4 if family == 4 else beyond.v6
    before = connections(agent, "beyond"), connections(agent, "quiet")
    here = "10.77.2.1" if family == 4 else "fd77:2::1"
    for to, port in ((address, BEYOND), (here, QUIET)):
        said = datagrams.send(
            shared_lab, shared_lab.remote, "sendto", to, port, count=3, shape=way, source=UNLICENSED[family]
        )
        assert said == Sent(0, {"silence": 3}), port
    assert set(since(before[0], agent, "beyond")) <= {("remote", "denied")}
    assert set(since(before[1], agent, "quiet")) <= {("remote", "denied")}


@pytest.fixture
def wide(shared_lab: Lab) -> Iterator[None]:
    """The remote's link takes larger packets than the one beyond."""
    ends = ((shared_lab.remote, "eth0"), (shared_lab.host, "to-remote"))
    for mtu in (9000, 1500):
        for place, device in ends:
            namespaces.ip("-n", place.name, "link", "set", device, "mtu", str(mtu))
        if mtu == 9000:
            yield


@pytest.mark.usefixtures("wide")
def test_what_this_host_has_to_cut_into_fragments(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace
) -> None:
    assert send(shared_lab, shared_lab.remote, beyond.v4, BEYOND, LICENSED[4]) == Sent(3)  # it is a neighbour
    for source, answers in ((LICENSED[4], "3000"), (UNLICENSED[4], "timed out")):
        argv = [processes.PYTHON, "-ISc", LARGE, source, beyond.v4, str(BEYOND)]
        assert shared_lab.call(shared_lab.remote, argv).stdout == f"{answers}\n", source


LARGE = """
import socket, sys
source, address, port = sys.argv[1:]
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_MTU_DISCOVER, IP_PMTUDISC_DONT: it may be cut
sender.settimeout(1)
sender.bind((source, 0))
sender.sendto(bytes(3000), (address, int(port)))
try:
    print(len(sender.recv(65536)))
except OSError as error:
    print(error)
"""


def test_a_process_of_this_host_is_judged_where_it_sends(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, family: int
) -> None:
    """By its own right, and on its way through the host not again."""
    address = beyond.v4 if family == 4 else beyond.v6
    before, tc = connections(agent, "beyond"), refused(agent, "beyond", "tc")
    for place, origin in ((shared_lab.host, "loopback"), (shared_lab.container, "container")):
        was = connections(agent, "beyond")
        said = datagrams.send(shared_lab, place, "sendto", address, BEYOND, count=3, uid=1002)
        assert said == Sent(0, {"EPERM": 3})
        assert datagrams.send(shared_lab, place, "sendto", address, BEYOND, count=3, uid=1001) == Sent(3)
        assert since(was, agent, "beyond") == {(origin, "denied"): 1, (origin, "allowed"): 1}
    assert ("remote", "denied") not in since(before, agent, "beyond")
    assert refused(agent, "beyond", "tc") == tc


def test_an_answer_is_one_where_both_ports_are_declared(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, family: int
) -> None:
    address = beyond.v4 if family == 4 else beyond.v6
    before = connections(agent, "clients")
    said = send(shared_lab, shared_lab.remote, address, BEYOND, LICENSED[family], CLIENTS)
    assert said == Sent(3)
    assert since(before, agent, "clients") == {}


def test_what_nobody_asked_for_is_no_answer(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, family: int
) -> None:
    client = shared_lab.remote.v4 if family == 4 else shared_lab.remote.v6
    server = datagrams.serve(shared_lab, shared_lab.remote, client, CLIENTS)
    before = connections(agent, "clients")
    said = datagrams.send(shared_lab, beyond, "sendto", client, CLIENTS, count=3, cgroup=None)
    processes.end(server)
    assert said == Sent(0, {"silence": 3})
    assert since(before, agent, "clients") == {("remote", "denied"): 1}
