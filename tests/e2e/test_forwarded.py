"""A SYN that this host only forwards to a declared place elsewhere: behind the packet gate is no other."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.another_host import another_host
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

BEYOND = 5342
LICENSED, UNLICENSED = "10.77.2.3", "10.77.2.2"
POLICY = f"""\
version: 1
services:
  beyond: {{product: acme, at: [10.77.3.2], ports: [{{port: {BEYOND}, class: internal}}]}}
principals:
  licensed: [{{cidr: {LICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""

IN_FRAGMENTS = """
import json, select, socket, struct, sys, time
source, address, port, first = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
ends = socket.inet_aton(source) + socket.inet_aton(address)

def summed(data):
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF

def ip(data, at, more):
    flags = at // 8 | (0x2000 if more else 0)
    return struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(data), 77, flags, 64, 6, 0) + ends + data

def tcp(check):
    return struct.pack("!HHIIBBHHH", 40001, port, 1000 + first, 0, 5 << 4, 2, 65535, check, 0)

segment = tcp(summed(ends + struct.pack("!HH", 6, 20) + tcp(0)))
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
heard = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
heard.settimeout(1)
if first < 20:
    raw.sendto(ip(segment[:first], 0, True), (address, 0))
    raw.sendto(ip(segment[first:], first, False), (address, 0))
else:
    raw.sendto(ip(segment, 0, False), (address, 0))
try:
    while True:
        packet = heard.recv(100)
        ports, flags = struct.unpack("!HH", packet[20:24]), packet[33]
        if ports == (port, 40001) and packet[16:20] == socket.inet_aton(source):
            print({0x12: "accepted", 0x14: "reset"}[flags])
            break
except TimeoutError:
    print("silence")
"""


@pytest.fixture(scope="module")
def beyond(shared_lab: Lab) -> Iterator[Namespace]:
    with another_host(shared_lab, f"{LICENSED}/24") as place:
        server = shared_lab.serve(place, "0.0.0.0", BEYOND, cgroup=None)
        yield place
        processes.end(server)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, beyond: Namespace) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY, {"scope": {"interfaces": ["to-remote", "to-beyond"]}}) as running:
        yield running


@pytest.mark.parametrize("first", [20, 16, 8])
def test_a_syn_whose_header_is_cut_in_two(
    shared_lab: Lab, agent: RunningAgent, beyond: Namespace, first: int
) -> None:
    """Its first fragment has the ports, but not the flags."""
    before = connections(agent, "beyond")
    for source, becomes in ((LICENSED, "accepted"), (UNLICENSED, "reset")):
        argv = [processes.PYTHON, "-ISc", IN_FRAGMENTS, source, beyond.v4, str(BEYOND), str(first)]
        assert shared_lab.call(shared_lab.remote, argv).stdout == f"{becomes}\n", (source, first)
    assert since(before, agent, "beyond") == {("remote", "denied"): 1}
