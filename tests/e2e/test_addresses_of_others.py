"""Who sends from an address that is not his: of IPv6 anybody can (IPV6_FREEBIND), of IPv4 who has a raw
socket. He gets no right by it, nor gives one to who has that address."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, processes
from tests.fixtures.clients import connect_from
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

LICENSED, UNLICENSED = 1001, 1002
DNS, FAR, DB, ELSEWHERE, RANGE = 5330, 5331, 5332, 5333, range(5400, 5500)
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {DNS}, protocol: udp, class: internal}}]}}
  far:
    product: acme
    at: [10.77.2.2, "fd77:2::2"]
    ports: [{{port: {FAR}, protocol: udp, class: internal}}]
  rpc: {{product: acme, ports: [{{port: {RANGE[0]}-{RANGE[-1]}, protocol: udp, class: internal}}]}}
  db: {{product: acme, ports: [{{port: {DB}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
HERE, THERE = "fd77:2::1", "fd77:2::2"
"""The host's address and the remote's."""

FROM_ANOTHERS = """
import socket, struct, sys
source, source_port, to, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
if ":" in source:
    sender = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    sender.setsockopt(socket.IPPROTO_IPV6, 78, 1)  # IPV6_FREEBIND
    sender.bind((source, source_port))
    sender.setsockopt(socket.IPPROTO_IPV6, 78, 0)
    sender.sendto(b"x", (to, port))
else:
    sender = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    ends = socket.inet_aton(source) + socket.inet_aton(to)
    packet = struct.pack("!BBHHHBBH", 0x45, 0, 29, 0, 0, 64, 17, 0) + ends
    sender.sendto(packet + struct.pack("!HHHH", source_port, port, 9, 0) + b"x", (to, 0))
"""
CONNECTS = """
import socket, sys
client = socket.socket(socket.AF_INET6)
client.setsockopt(socket.IPPROTO_IPV6, 78, 1)
client.bind((sys.argv[1], int(sys.argv[2])))
client.setblocking(False)
client.connect_ex((sys.argv[3], int(sys.argv[4])))
print("sent", flush=True)
sys.stdin.readline()
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    servers = [
        datagrams.serve(lab, lab.host, "::", DNS),
        datagrams.serve(lab, lab.host, "::", ELSEWHERE),
        datagrams.serve(lab, lab.remote, "::", FAR),
        lab.serve(lab.host, "::", DB),
    ]
    with lab.agent(POLICY) as running:
        running.wait_until_it_stands_by()
        yield running
    for server in servers:
        processes.end(server)


def send_from(lab: Lab, place: Namespace, *ends: str | int, uid: int | None = UNLICENSED) -> None:
    lab.call(place, [processes.PYTHON, "-ISc", FROM_ANOTHERS, *map(str, ends)], uid=uid)


@pytest.fixture(params=["host", "container"])
def place(shared_lab: Lab, request: pytest.FixtureRequest) -> Namespace:
    found: Namespace = getattr(shared_lab, request.param)
    return found


def ask(lab: Lab, place: Namespace, address: str, port: int, source_port: int) -> Sent:
    return datagrams.send(lab, place, "sendto", address, port, source_port=source_port, uid=UNLICENSED)


@pytest.mark.parametrize("family", [4, 6])
def test_what_seems_to_come_from_a_service_makes_no_answer(
    shared_lab: Lab, agent: RunningAgent, place: Namespace, family: int
) -> None:
    lab, before = shared_lab, connections(agent, "far")
    own, far = (place.v4, "10.77.2.2") if family == 4 else (place.v6, THERE)
    listens = datagrams.serve(lab, place, "::", 41001)  # as its look-up sees it
    for port in (41001, 41002):
        send_from(lab, place, far, FAR, own, port, uid=UNLICENSED if family == 6 else None)
    processes.end(listens)
    for port in (41001, 41002):
        assert ask(lab, place, far, FAR, port) == Sent(0, {"EPERM": 1}), port
    assert sum(since(before, agent, "far").values()) == 3, "and that who listened has answered"


@pytest.mark.parametrize("family", [4, 6])
def test_a_container_makes_no_answer_of_the_hosts(shared_lab: Lab, agent: RunningAgent, family: int) -> None:
    """To itself, and to another host."""
    lab = shared_lab
    uid = UNLICENSED if family == 6 else None
    at, own = (lab.host.v4, lab.container.v4) if family == 4 else (lab.host.v6, lab.container.v6)
    ours, theirs = ("10.77.2.1", "10.77.2.2") if family == 4 else (HERE, THERE)
    send_from(lab, lab.container, at, DNS, own, 41011, uid=uid)
    send_from(lab, lab.container, ours, DNS, theirs, 41012, uid=uid)
    assert ask(lab, lab.container, at, DNS, 41011) == Sent(0, {"EPERM": 1})
    assert ask(lab, lab.remote, ours, DNS, 41012).answered == 0


def test_who_is_licensed_lets_no_remote_in(shared_lab: Lab, agent: RunningAgent) -> None:
    lab, before = shared_lab, connections(agent, "dns")
    send_from(lab, lab.host, THERE, 41021, HERE, DNS, uid=LICENSED)
    assert since(before, agent, "dns")[("loopback", "allowed")] == 1
    assert ask(lab, lab.remote, HERE, DNS, 41021).answered == 0
    before = connections(agent, "db")
    argv = [processes.PYTHON, "-ISuc", CONNECTS, THERE, "41022", HERE, str(DB)]
    # the remote host keeps what it has not asked for from ending it
    rule = "ip6 daddr fd77:2::1 tcp dport 5332 tcp flags & (syn|rst) == rst drop;"
    table = f"table ip6 licet_test {{ chain output {{ type filter hook output priority 0; {rule} }}; }}"
    lab.call(lab.remote, ["nft", table])
    client = lab.run(lab.host, argv, uid=LICENSED, stdin=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == "sent\n"
    assert connect_from(lab.remote, 41022, HERE, DB) != ""
    assert since(before, agent, "db")[("remote", "denied")] >= 1
    processes.end(client)
    lab.call(lab.remote, ["nft", "delete table ip6 licet_test"])


@pytest.mark.parametrize("address", ["::1", HERE, "fd77:1::1", "10.77.2.1"])
def test_who_sends_from_an_address_of_his_own_is_not_meant(
    shared_lab: Lab, agent: RunningAgent, address: str
) -> None:
    """Also from another one than he sends to."""
    lab, before = shared_lab, (connections(agent, "dns"), connections(agent, "db"))
    source = {"::1": "::1", "10.77.2.1": "10.77.1.1"}.get(address, "fd77:1::1")
    said = datagrams.send(lab, lab.host, "sendto", address, DNS, source=source, uid=LICENSED)
    assert said == Sent(1)
    program = (
        "import socket, sys; made = socket.create_connection((sys.argv[1], int(sys.argv[2])), 5,"
        " (sys.argv[3], 0)); made.sendall(b'x'); print(made.recv(1))"
    )
    argv = [processes.PYTHON, "-ISc", program, address, str(DB), source]
    assert lab.call(lab.host, argv, uid=LICENSED).stdout == "b'x'\n"
    assert since(before[0], agent, "dns") == since(before[1], agent, "db") == {("loopback", "allowed"): 1}


@pytest.mark.parametrize("way", ["sendto", "connect"])
def test_an_answer_over_ipv6_is_one(shared_lab: Lab, agent: RunningAgent, place: Namespace, way: str) -> None:
    before = connections(agent, "rpc")
    said = datagrams.send(
        shared_lab, place, way, shared_lab.host.v6, ELSEWHERE, count=3, source_port=RANGE[60]
    )
    assert said == Sent(3)
    assert since(before, agent, "rpc") == {}
