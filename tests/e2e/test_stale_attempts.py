"""A verdict is good for the connect() that it was made at: not for a later one on the same socket, by whoever
has it then, to where only the SYN shows that it is a target."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import struct
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from agent.kernel.uapi import AttachType, ProgramType, instruction
from tests.fixtures import namespaces, processes
from tests.fixtures.balancer import USER_IP4, balancing
from tests.fixtures.clients import dial
from tests.fixtures.full_flows import full_of_flows
from tests.fixtures.lab import Lab
from tests.fixtures.neighbours import on_cgroup
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, since

HANDOVER = (Path(__file__).parents[1] / "fixtures" / "handover.py").read_text()
PORT, BALANCED, LICENSED, UNLICENSED = 7481, 7489, 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7481, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""
KNOWN, ROUTED = "10.77.2.1", "198.19.0.5"
FAILURES = {"no route": "ENETUNREACH", "in use": "EADDRNOTAVAIL", "refused by another tool": "EPERM"}
LEADS = ("a route that is new", "a load balancer", "a load balancer, to the same address")
_NUMBERS = itertools.count(1)


@pytest.fixture(scope="module", params=[[], ["*"]], ids=["socket gate alone", "with the packet gate"])
def agent(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[RunningAgent]:
    shared_lab.call(shared_lab.host, ["sysctl", "-qw", "net.ipv4.tcp_fastopen=1031"])  # without a cookie
    server = shared_lab.serve(shared_lab.host, "0.0.0.0", PORT)
    with shared_lab.agent(POLICY, {"scope": {"interfaces": request.param}}) as running:
        running.wait_until_it_stands_by()
        yield running
    processes.end(server)


@contextmanager
def failing(lab: Lab, agent: RunningAgent, failure: str) -> Iterator[tuple[str, str]]:
    """Where a connect() is judged and fails before its SYN, and what it has to be bound to. The daemon hears
    of nothing."""
    inside = ("-n", lab.host.name)
    os.kill(agent.pid, signal.SIGSTOP)
    with ExitStack() as cleanup:
        cleanup.callback(os.kill, agent.pid, signal.SIGCONT)
        if failure == "no route":
            namespaces.ip(*inside, "address", "del", f"{KNOWN}/24", "dev", "to-remote")
            cleanup.callback(namespaces.ip, *inside, "address", "add", f"{KNOWN}/24", "dev", "to-remote")
            yield KNOWN, ""
        elif failure == "in use":
            yield "127.0.0.1", "127.0.0.1"
        else:
            cleanup.enter_context(refusing(lab.scope, KNOWN))
            yield KNOWN, ""


@contextmanager
def refusing(cgroup: str, address: str) -> Iterator[None]:
    """A program of another tool behind ours: connect() to this address is EPERM."""
    number = struct.unpack("<i", socket.inet_aton(address))[0]
    code = (
        instruction(0x61, 2, 1, USER_IP4)
        + instruction(0xB7, 0, value=1)
        + instruction(0x56, 2, 0, 1, number)  # another: to the end (32 bits)
        + instruction(0xB7, 0, value=0)
        + instruction(0x95)
    )
    with on_cgroup("refuser", cgroup, ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, code):
        yield


@contextmanager
def leading(lab: Lab, lead: str, first: str) -> Iterator[tuple[str, int]]:
    """Somewhere that nobody knows as this host's until the SYN leaves."""
    if lead == "a route that is new":
        network = f"198.19.{next(_NUMBERS)}"
        route = ("route", "add", "local", f"{network}.0/24", "dev", "lo")
        namespaces.ip("-n", lab.host.name, *route)
        yield f"{network}.5", PORT
        namespaces.ip("-n", lab.host.name, "route", "del", *route[2:])
        return
    to = first if lead.endswith("same address") else "10.77.1.1"
    with balancing(lab.scope, BALANCED, (to, PORT)):
        yield "192.0.2.7", BALANCED


def handed_over(lab: Lab, how: str, first: tuple[str, str], way: str, second: tuple[str, int]) -> list[str]:
    address, source = first
    argv = [processes.PYTHON, "-ISc", HANDOVER, how, source, address, str(PORT), way, *map(str, second)]
    said: list[str] = json.loads(lab.call(lab.host, argv).stdout)
    return said


@pytest.mark.parametrize("lead", LEADS)
@pytest.mark.parametrize("failure", FAILURES)
def test_who_gets_a_socket_has_nothing_of_the_attempt_before(
    shared_lab: Lab, agent: RunningAgent, failure: str, lead: str
) -> None:
    if lead.endswith("same address") and failure != "in use":
        pytest.skip("nobody can be reached there")
    before = connections(agent, "db")
    with failing(shared_lab, agent, failure) as first, leading(shared_lab, lead, first[0]) as second:
        said = handed_over(shared_lab, "ids", first, "plain", second)
    assert said == [FAILURES[failure], "ECONNREFUSED"]
    allowed = 2 if failure == "in use" else 1
    assert since(before, agent, "db") == {("loopback", "allowed"): allowed, ("loopback", "denied"): 1}


@pytest.mark.parametrize("way", ["plain", "fastopen"])
@pytest.mark.parametrize("how", ["passed", "fork"])
def test_neither_has_another_process(shared_lab: Lab, agent: RunningAgent, how: str, way: str) -> None:
    before = connections(agent, "db")
    with (
        failing(shared_lab, agent, "in use") as first,
        leading(shared_lab, "a route that is new", first[0]) as second,
    ):
        assert handed_over(shared_lab, how, first, way, second) == ["EADDRNOTAVAIL", "ECONNREFUSED"]
    assert since(before, agent, "db") == {("loopback", "allowed"): 2, ("loopback", "denied"): 1}


@pytest.mark.parametrize("lead", LEADS)
def test_who_is_licensed_tries_again_and_each_time_counts(
    shared_lab: Lab, agent: RunningAgent, lead: str
) -> None:
    before, others = connections(agent, "db"), agent.total("licet_unprotected_connections_total")
    opened = all_closed(agent, "db")
    with failing(shared_lab, agent, "in use") as first, leading(shared_lab, lead, first[0]) as second:
        assert handed_over(shared_lab, "same", first, "plain", second) == ["EADDRNOTAVAIL", ""]
    assert since(before, agent, "db") == {("loopback", "allowed"): 3}
    assert all_closed(agent, "db") == opened + 2
    assert agent.total("licet_unprotected_connections_total") == others


@pytest.mark.parametrize("lead", LEADS)
def test_nor_where_there_is_no_room_for_a_flow(shared_lab: Lab, agent: RunningAgent, lead: str) -> None:
    before = connections(agent, "db")
    with (
        failing(shared_lab, agent, "in use") as first,
        leading(shared_lab, lead, first[0]) as second,
        full_of_flows(agent),
    ):
        assert handed_over(shared_lab, "ids", first, "plain", second) == ["EADDRNOTAVAIL", "ECONNREFUSED"]
        assert dial(shared_lab, shared_lab.host, "plain", *second, uid=LICENSED)["error"] == ""
        assert dial(shared_lab, shared_lab.host, "plain", *second, uid=UNLICENSED)["error"] == "ECONNREFUSED"
    assert since(before, agent, "db") == {("loopback", "allowed"): 3, ("loopback", "denied"): 2}
