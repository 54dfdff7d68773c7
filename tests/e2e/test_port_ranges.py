"""Ranges of ports: one service from the first to the last of them, and nothing beside it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, matching, since, told
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED = 1001, 1002
FIRST, INSIDE, LAST = 49152, 57000, 65535
"""All 16,384 ports for dynamic use (RFC 6335): consumers have some of them, too."""
BESIDE = FIRST - 1
POLICY = """\
version: 1
services:
  data:
    product: acme
    owner: [{uid: 0}]
    ports: [{port: FIRST-LAST, class: internal}]
principals:
  licensed: [{uid: 1001}, {cidr: 10.77.1.0/24}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""
BIND = """
import socket, sys
one = socket.socket()
one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # a consumer may have had the port
one.bind(("127.0.0.1", int(sys.argv[1])))
"""


def policy(first: int = FIRST, last: int = LAST) -> str:
    return POLICY.replace("FIRST", str(first)).replace("LAST", str(last))


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    for port in (BESIDE, FIRST, INSIDE, LAST):
        shared_lab.serve(shared_lab.host, "::", port)
    with shared_lab.agent(policy(), {"scope": {"interfaces": ["*"]}}) as running:
        yield running


def unprotected(agent: RunningAgent, direction: str) -> float:
    return agent.total("licet_unprotected_connections_total", direction=direction)


@pytest.mark.parametrize("port", [FIRST, INSIDE, LAST])
def test_each_port_of_a_range_is_enforced(shared_lab: Lab, agent: RunningAgent, port: int) -> None:
    lab, before = shared_lab, connections(agent, "data")
    assert lab.load(lab.host, "127.0.0.1", port, uid=LICENSED)["ok"] == 1
    assert lab.load(lab.host, "127.0.0.1", port, uid=UNLICENSED)["errors"] == {"EPERM": 1}
    assert lab.load(lab.container, lab.host.v4, port)["ok"] == 1
    assert lab.load(lab.remote, lab.host.v4, port)["errors"] == {"ECONNREFUSED": 1}
    assert lab.load(lab.remote, lab.host.v6, port)["errors"] == {"ECONNREFUSED": 1}
    assert since(before, agent, "data") == {
        ("loopback", "allowed"): 1,
        ("loopback", "denied"): 1,
        ("container", "allowed"): 1,
        ("remote", "denied"): 2,
    }


def test_a_port_beside_a_range_is_not(shared_lab: Lab, agent: RunningAgent) -> None:
    lab, before, outbound = shared_lab, connections(agent, "data"), unprotected(agent, "outbound")
    assert lab.load(lab.host, "127.0.0.1", BESIDE, uid=UNLICENSED)["ok"] == 1
    assert lab.load(lab.remote, lab.host.v4, BESIDE)["ok"] == 1
    wait_for(lambda: unprotected(agent, "outbound") == outbound + 1, "it is counted as unprotected")
    assert since(before, agent, "data") == {}


def test_an_event_names_the_port_and_a_counter_the_service(shared_lab: Lab, agent: RunningAgent) -> None:
    lab = shared_lab
    lab.load(lab.host, "127.0.0.1", INSIDE, program=lab.executable("opt/named"), uid=UNLICENSED)
    event = told(agent, {"type": "violation", "consumer.exe": str(lab.executable("opt/named"))})
    assert (event["service"], event["class"]) == ("data", "internal")
    assert event["tuple"]["dport"] == INSIDE
    assert not [name for name, labels in agent.metrics() if "port" in dict(labels)]


@pytest.mark.parametrize(("port", "binds"), [(FIRST + 7, False), (LAST - 7, False), (BESIDE - 7, True)])
def test_only_an_owner_binds_in_a_range(shared_lab: Lab, agent: RunningAgent, port: int, binds: bool) -> None:
    argv = ["/usr/bin/python3", "-c", BIND, str(port)]
    done = shared_lab.call(shared_lab.host, argv, uid=UNLICENSED, check=False)
    assert (done.returncode == 0) == binds, done.stderr
    assert binds or told(agent, {"type": "listener", "port": port})["reason"] == "owner_mismatch"
    assert shared_lab.call(shared_lab.host, argv, check=False).returncode == 0


def test_commands_show_the_range(shared_lab: Lab, agent: RunningAgent) -> None:
    shown = agent.licet("policy", "show")
    assert f"data/internal: {FIRST}-{LAST}/tcp" in shown.stdout


MOVED = ((12000, 28383), (16000, 32383))
"""A range before and after it moves."""


def moved(number: int) -> str:
    """The even ones, and the odd ones: with another service in front, so that what stays in the range gets
    another number in the kernel's tables."""
    text = policy(*MOVED[number % 2])
    low = "  low: {product: acme, ports: [{port: 7391, class: internal}]}\n" if number % 2 else ""
    return text.replace("principals:", f"{low}principals:", 1)


def test_a_range_moves_under_load_and_each_attempt_is_judged_once(lab: Lab) -> None:
    """Whatever is in both policies stays protected; of the rest, each attempt is by one of the two."""
    ports, count = (12010, 20000, 32380), 6000
    for port in ports:
        lab.serve(lab.host, "127.0.0.1", port, workers=2)
    with lab.agent(moved(0)) as agent:
        loads = []
        for port in ports:
            argv = [lab.executable("opt/client"), "127.0.0.1", str(port), "--connections", str(count)]
            loads.append(lab.run(lab.host, [*argv, "--clients", "8", "--rate", "600"], uid=LICENSED))
        wait_for(lambda: connections(agent, "data"), "connections are under way")
        for number in range(1, 13):
            agent.set_policy(moved(number))
        assert loads[1].poll() is None, "the load ended before the reloads"
        for load in loads:
            out, _ = load.communicate(timeout=120)
            assert json.loads(out)["errors"] == {}
        counts = connections(agent, "data")
        assert counts.keys() == {("loopback", "allowed")}, (counts, agent.events("violation"))
        (counted,) = counts.values()
        wait_for(lambda: counted + unprotected(agent, "outbound") == 3 * count, "each is counted once")
        assert count < counted < 3 * count
        assert connections(agent, "low") == {}
        assert all_closed(agent, "data") == counted
        assert not matching(agent, {"type": "violation"})


def test_a_port_in_both_of_two_policies_is_protected_all_the_while(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", 20000, workers=2)
    with lab.agent(moved(0)) as agent:
        argv = [lab.executable("opt/client"), "127.0.0.1", "20000", "--connections", "15000"]
        load = lab.run(lab.host, [*argv, "--clients", "16", "--rate", "1500"], uid=LICENSED)
        wait_for(lambda: connections(agent, "data"), "connections are under way")
        for number in range(1, 13):
            agent.set_policy(moved(number))
        assert load.poll() is None, "the load ended before the reloads"
        out, _ = load.communicate(timeout=120)
        assert json.loads(out)["errors"] == {}
        assert connections(agent, "data") == {("loopback", "allowed"): 15_000}
        assert unprotected(agent, "outbound") == 0
