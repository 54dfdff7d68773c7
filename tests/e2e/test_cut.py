"""A right that ends while a connection is open: cut where the policy says so, kept elsewhere."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, on_end: cut, ports: [{port: 7331, class: internal}, {port: 7333, class: internal}]}
  api: {product: acme, ports: [{port: 7332, class: internal}]}
principals:
  both: [{uid: 1001}, {uid: 1002}, {cidr: 10.77.2.0/24}]
  first: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [both]}]}
enforcement: {default: enforce}
"""
FEWER = POLICY.replace("principals: [both]", "principals: [first]")

BUSY = """
import socket, sys
listening = socket.create_server(("127.0.0.1", 7333), backlog=0)
print("ready", flush=True)
sys.stdin.readline()
held = [listening.accept() for _ in range(4)]
print("accepted", flush=True)
sys.stdin.readline()
"""
"""There is room for one connection until it accepts; the SYNs of others are sent again every second."""
SEVERAL = """
import errno, socket, sys, time
several = [socket.socket() for _ in range(4)]
for one in several:
    one.setblocking(False)
    one.connect_ex(("127.0.0.1", 7333))
def established():
    return sum(one.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == 1 for one in several)
for _ in range(100):
    if established():
        break
    time.sleep(0.1)
print(established(), flush=True)
sys.stdin.readline()
for one in several:
    one.setblocking(True)
    one.settimeout(20)
    try:
        print(len(one.recv(1)), flush=True)
    except OSError as error:
        print(errno.errorcode[error.errno or 0], flush=True)
"""


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    servers = [shared_lab.serve(shared_lab.host, "::", port) for port in (7331, 7332)]
    with shared_lab.agent(POLICY) as running:
        yield running
    for server in servers:
        processes.end(server)


def opened(lab: Lab, kind: str, address: str, port: int, uid: int, remote: bool = False) -> Client:
    client = Client(lab, lab.remote if remote else lab.host, kind, address, port, uid=uid)
    client.connect()
    return client


def open_flows(agent: RunningAgent) -> set[tuple[str, int | None]]:
    """(service, consumer's pid)."""
    return {(flow["service"], flow["consumer"].get("pid")) for flow in agent.flows()}


def test_flows_that_lost_their_right_are_cut_and_no_others(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    kept = [
        opened(shared_lab, "lasting", "127.0.0.1", 7331, 1001),
        opened(shared_lab, "lasting", host.v6, 7331, 1001),
        opened(shared_lab, "lasting", "127.0.0.1", 7332, 1002),
    ]
    ended = [
        opened(shared_lab, "lasting", address, 7331, 1002)
        for address in ("127.0.0.1", "::1", host.v4, host.v6)
    ]
    far = opened(shared_lab, "lasting", host.v4, 7331, 0, remote=True)
    agent.set_policy(FEWER)
    wait_for(lambda: len(agent.flows()) == 3, "five flows are cut")
    assert open_flows(agent) == {("db", kept[0].pid), ("db", kept[1].pid), ("api", kept[2].pid)}
    assert {client.close()["error"] for client in ended} == {"ECONNABORTED"}
    assert far.close()["error"] == "ECONNRESET"
    assert {client.close()["error"] for client in kept} == {""}
    event = told(agent, {"type": "cut", "consumer.pid": ended[0].pid})
    assert (event["service"], event["reason"], event["enforced"]) == ("db", "unlicensed_principal", True)
    assert agent.status()["flows"]["opened"] == agent.status()["flows"]["closed"] == 8
    assert shared_lab.load(host, "127.0.0.1", 7331, uid=1001)["ok"] == 1, "the listener is untouched"


def test_a_license_that_expires_cuts_at_its_second(shared_lab: Lab, agent: RunningAgent) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    agent.set_policy(
        POLICY.replace("id: acme, product", f"id: acme, expires_at: {end:%Y-%m-%dT%H:%M:%SZ}, product")
    )
    client = opened(shared_lab, "lasting", "127.0.0.1", 7331, 1002)
    wait_for(lambda: not agent.flows(), "it is cut")
    assert datetime.now(UTC) >= end.replace(microsecond=0)
    assert client.close()["error"] == "ECONNABORTED"
    assert told(agent, {"type": "cut"})["reason"] == "expired"


def test_nothing_is_cut_in_observe(shared_lab: Lab, agent: RunningAgent) -> None:
    client = opened(shared_lab, "lasting", "127.0.0.1", 7331, 1002)
    agent.set_policy(FEWER.replace("default: enforce", "default: observe"))
    agent.set_policy(FEWER.replace("default: enforce", "db: observe"))
    assert ("db", client.pid) in open_flows(agent)
    assert client.close()["error"] == ""


def test_what_was_under_way_is_cut_once_it_is_established(shared_lab: Lab, agent: RunningAgent) -> None:
    """A SYN that finds no room is sent again, for minutes: what was said when the first one left is old."""
    lab = shared_lab
    argv = [processes.PYTHON, "-Ic"]
    busy = lab.run(lab.host, [*argv, BUSY], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert busy.stdin
    assert busy.stdout
    assert busy.stdout.readline() == "ready\n"
    client = lab.run(lab.host, [*argv, SEVERAL], uid=1002, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert client.stdin
    assert client.stdout
    assert client.stdout.readline() == "1\n", "the others are under way"
    agent.set_policy(FEWER)
    wait_for(lambda: len(agent.flows()) == 3, "the one that is established is cut")
    for one in (busy, client):
        assert one.stdin
        one.stdin.write("go\n")
        one.stdin.flush()
    assert [client.stdout.readline() for _ in range(4)] == ["ECONNABORTED\n"] * 4
    assert agent.flows() == []
    for one in (busy, client):
        processes.end(one)
