"""UDP: what makes the kernel look for a socket is no datagram, and who sends with a server's address from
beside it is not that server. Neither makes an answer of what is sent there."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, namespaces, processes
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

LICENSED, UNLICENSED = 1001, 1002
DNS, FAR, FAR_TOO, OTHER = 5340, 5341, 5342, 5343
REMOTE, OF_REMOTE = "10.77.2.2", "10.77.2.3"
"""Another address of the same host, where nobody serves."""
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {DNS}, protocol: udp, class: internal}}]}}
  other: {{product: free, ports: [{{port: {OTHER}, protocol: udp, class: internal}}]}}
  far:
    product: acme
    at: [{REMOTE}, {OF_REMOTE}]
    ports: [{{port: {FAR}-{FAR_TOO}, protocol: udp, class: internal}}]
principals:
  licensed: [{{uid: {LICENSED}}}]
  everybody: [{{uid: {LICENSED}}}, {{uid: {UNLICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
  - {{id: free, product: free, entitlements: [{{id: use, classes: [internal], principals: [everybody]}}]}}
enforcement: {{default: enforce}}
"""

BESIDE = """
import json, socket, struct, sys
server, port, beside, own_port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ipv6 = ":" in server
family = socket.AF_INET6 if ipv6 else socket.AF_INET
client = socket.socket(family, socket.SOCK_DGRAM)
client.bind(("", own_port))
client.settimeout(0.5)
feigned = socket.socket(family, socket.SOCK_DGRAM)
feigned.bind((beside, port))
source = socket.inet_pton(family, server)
info = source + bytes(4) if ipv6 else bytes(4) + source + bytes(4)
option = (socket.IPPROTO_IPV6, socket.IPV6_PKTINFO) if ipv6 else (socket.IPPROTO_IP, 8)  # IP_PKTINFO
feigned.sendmsg([b"x"], [(*option, info)], 0, (server, client.getsockname()[1]))
try:
    said = [client.recvfrom(1)[1][:2]]
except TimeoutError:
    said = ["silence"]
feigned.close()
try:
    client.sendto(b"x", (server, port))
    said.append(client.recv(1).decode())
except TimeoutError:
    said.append("silence")
except PermissionError:
    said.append("EPERM")
print(json.dumps(said))
"""

SOCK_DIAG = """
import socket, struct, sys
kind, source, source_port, to, port = sys.argv[1:]
ends = struct.pack("!HH", int(source_port), int(port))
ends += socket.inet_aton(source).ljust(16, bytes(1)) + socket.inet_aton(to).ljust(16, bytes(1))
ends += struct.pack("=III", 1, 2**32 - 1, 2**32 - 1)  # interface; no cookie
ask = struct.pack("=BBxxI", socket.AF_INET, 17 if kind == "udp" else 6, 2**32 - 1) + ends
with socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, 4) as diag:  # NETLINK_SOCK_DIAG
    diag.send(struct.pack("=IHHII", 16 + len(ask), 20, 1, 1, 0) + ask)  # SOCK_DIAG_BY_FAMILY
    diag.recv(8192)
"""
"""Looks for the one socket that takes what comes from there; anybody may."""

ICMP_ERROR = """
import socket, struct, sys
source, source_port, to, port = sys.argv[1], int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
ends = socket.inet_aton(to) + socket.inet_aton(source)
told = struct.pack("!BBHHHBBH", 0x45, 0, 29, 0, 0, 64, 17, 0) + ends
told += struct.pack("!HHHH", port, source_port, 9, 0)
message = struct.pack("!BBHI", 3, 3, 0, 0) + told
total = sum(struct.unpack(f"!{len(message) // 2}H", message))
check = ~((total & 0xffff) + (total >> 16)) & 0xffff
message = struct.pack("!BBHI", 3, 3, check, 0) + told
socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).sendto(message, (to, 0))
"""
"""Port unreachable: as if `to` had sent to the source, and nobody was there."""

ANSWERS = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind(("", int(sys.argv[1])))
server.settimeout(5)
print("ready", flush=True)
for number in range(2):
    data, (address, port) = server.recvfrom(10)
    server.sendto(data, (address, port))
    try:
        server.sendto(data, (address, int(sys.argv[2])))
    except PermissionError:
        print("EPERM", flush=True)
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    servers = [datagrams.serve(lab, lab.host, at, DNS) for at in ("127.0.0.1", lab.host.v4, lab.host.v6)]
    namespaces.ip("-n", lab.remote.name, "address", "add", f"{OF_REMOTE}/24", "dev", "eth0")
    servers += [datagrams.serve(lab, lab.remote, REMOTE, port) for port in (FAR, FAR_TOO)]
    with lab.agent(POLICY) as running:
        running.wait_until_it_stands_by()
        yield running
    for server in servers:
        processes.end(server)


def call(lab: Lab, place: Namespace, program: str, *arguments: str | int, uid: int | None) -> str:
    argv = [processes.PYTHON, "-ISc", program, *map(str, arguments)]
    return lab.call(place, argv, uid=uid).stdout.strip()


def ask(lab: Lab, address: str, port: int, source_port: int) -> Sent:
    return datagrams.send(lab, lab.host, "sendto", address, port, source_port=source_port, uid=UNLICENSED)


BESIDE_WHOM = [("127.0.0.1", "127.0.0.2"), ("10.77.1.1", "10.77.2.1"), ("fd77:1::1", "::1")]


@pytest.mark.parametrize(("server", "beside"), BESIDE_WHOM)
def test_who_sends_with_a_servers_address_is_not_the_server(
    shared_lab: Lab, agent: RunningAgent, server: str, beside: str
) -> None:
    """He is bound to its port at another address, and chooses its address for one datagram (IP_PKTINFO)."""
    before = connections(agent, "dns")
    said = call(shared_lab, shared_lab.host, BESIDE, server, DNS, beside, 0, uid=UNLICENSED)
    assert json.loads(said) == [[server, DNS], "EPERM"]
    assert since(before, agent, "dns") == {("loopback", "denied"): 1}
    said = call(shared_lab, shared_lab.host, BESIDE, server, DNS, beside, 0, uid=LICENSED)
    assert json.loads(said) == [[server, DNS], "x"]


@pytest.mark.parametrize(("server", "beside"), BESIDE_WHOM)
def test_nor_where_he_may_send(shared_lab: Lab, agent: RunningAgent, server: str, beside: str) -> None:
    """To a port of a service that he has a right to: from that address it is not his."""
    said = call(shared_lab, shared_lab.host, BESIDE, server, DNS, beside, OTHER, uid=UNLICENSED)
    assert json.loads(said) == ["silence", "EPERM"]


def test_who_only_looks_for_a_socket_has_sent_nothing(shared_lab: Lab, agent: RunningAgent) -> None:
    """sock_diag, and an ICMP error that tells of a datagram that nobody has sent."""
    lab, before = shared_lab, connections(agent, "far")
    listens = datagrams.serve(lab, lab.host, "0.0.0.0", 41201)
    for port in (41201, 41202):
        call(lab, lab.host, SOCK_DIAG, "udp", REMOTE, FAR, "10.77.2.1", port, uid=UNLICENSED)
        call(lab, lab.remote, ICMP_ERROR, REMOTE, FAR, "10.77.2.1", port, uid=None)
    processes.end(listens)
    for port in (41201, 41202):
        assert ask(lab, REMOTE, FAR, port) == Sent(0, {"EPERM": 1}), port
    assert since(before, agent, "far") == {("loopback", "denied"): 2}


def test_what_was_received_is_answered(shared_lab: Lab, agent: RunningAgent) -> None:
    """To where it came from: not to another service there."""
    lab, before = shared_lab, connections(agent, "far")
    argv = [processes.PYTHON, "-ISuc", ANSWERS, "41203", str(FAR)]
    server = lab.run(lab.host, argv, uid=UNLICENSED)
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    said = datagrams.send(
        lab, lab.remote, "sendto", "10.77.2.1", 41203, count=2, source=OF_REMOTE, source_port=FAR_TOO
    )
    assert said == Sent(2)
    assert server.communicate(timeout=10)[0].split() == ["EPERM"] * 2
    assert since(before, agent, "far") == {("loopback", "denied"): 1}
