"""Spoofed sources over IPv6 and by UDP take nothing from what is told of local ones, either.
test_crowded_evidence.py has SYNs over IPv4."""

from __future__ import annotations

import ipaddress
import random
import socket
import struct
from collections.abc import Iterator

import pytest

from tests.e2e.test_crowded_evidence import EACH_SUMMARY_S, POLICY, PORT, as_users, paused, violators
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import entered
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import wait_for
from tests.kernel.tc_world import ETH_P_IP, link_address

MANY = 20_000
ETH_P_IPV6 = 0x86DD
SYN = 0x02
BOTH = POLICY.replace("class: internal}]}\n  busy", "class: internal}, {PORT}]}\n  busy").replace(
    "{PORT}", f"{{port: {PORT}, protocol: udp, class: internal}}"
)
USERS = set(range(3100, 3200))


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    for address in ("127.0.0.1", lab.host.v4, "10.77.2.1", "fd77:2::1"):
        lab.serve(lab.host, address, PORT)
    with entered(lab.host):
        server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    settings = {"intervals": {"summary": EACH_SUMMARY_S, "reconcile": 1}, "scope": {"interfaces": ["*"]}}
    with server, lab.agent(BOTH, settings) as running:
        server.bind(("::", PORT))
        running.wait_until_it_stands_by()
        running.licet("mode", "enforce", "--yes")
        yield running


def check(data: bytes) -> int:
    """RFC 1071."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    total = (total & 0xFFFF) + (total >> 16)
    return ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF


def packet(source: str, protocol: int, number: int) -> bytes:
    """Its source port is not what tells it from others."""
    from_port, version = 20_000 + number % 40_000, ipaddress.ip_address(source).version
    to = "10.77.2.1" if version == 4 else "fd77:2::1"
    ends = ipaddress.ip_address(source).packed + ipaddress.ip_address(to).packed
    if protocol == socket.IPPROTO_TCP:
        head, tail = struct.pack("!HHIIBBH", from_port, PORT, number + 1, 0, 5 << 4, SYN, 1024), bytes(2)
    else:
        head, tail = struct.pack("!HHH", from_port, PORT, 10), b"xx"
    size = len(head) + 2 + len(tail)
    body = head + struct.pack("!H", check(ends + struct.pack("!HH", protocol, size) + head + tail)) + tail
    if version == 6:
        return struct.pack("!IHBB", 6 << 28, size, protocol, 64) + ends + body
    start = struct.pack("!BBHHHBB", 0x45, 0, 20 + size, 0, 0, 64, protocol)
    return start + struct.pack("!H", check(start + ends)) + ends + body


def sources(version: int) -> list[str]:
    """Each is another one, most of another network."""
    chosen, found = random.Random(5), set[str]()
    while len(found) < MANY:
        if version == 4:
            found.add(f"{chosen.randint(11, 99)}.{chosen.randint(0, 255)}.{chosen.randint(0, 255)}.7")
        else:
            found.add(str(ipaddress.IPv6Address(0x2A00 << 112 | chosen.getrandbits(64) << 48 | 7)))
    return sorted(found)


def flood(lab: Lab, version: int, protocol: int) -> None:
    to = ("eth0", ETH_P_IP if version == 4 else ETH_P_IPV6, 0, 0, link_address(lab.host, "to-remote"))
    with entered(lab.remote):
        client = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)
    with client:
        for number, source in enumerate(sources(version)):
            client.sendto(packet(source, protocol, number), to)


@pytest.mark.parametrize(
    ("version", "protocol"),
    [(6, socket.IPPROTO_TCP), (4, socket.IPPROTO_UDP), (6, socket.IPPROTO_UDP)],
    ids=["SYNs over IPv6", "datagrams over IPv4", "datagrams over IPv6"],
)
def test_spoofed_sources_take_no_event_of_local_ones(
    lab: Lab, agent: RunningAgent, version: int, protocol: int
) -> None:
    with paused(agent):
        flood(lab, version, protocol)
        as_users(lab, *USERS)
    wait_for(lambda: violators(agent).keys() >= USERS, "each user's is told", timeout_s=60)
    told = violators(agent)
    assert {told[uid]["consumer"]["identity"] for uid in USERS} == {"process"}
    assert connections(agent, "db") == {("remote", "denied"): MANY, ("loopback", "denied"): len(USERS)}
    assert agent.total("licet_events_lost_total", cause="uses_full") == 0
