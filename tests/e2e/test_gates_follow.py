"""Interfaces that come later are covered within a second; other tools' filters are left alone."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator

import pytest

from agent.kernel import libbpf
from tests.fixtures import namespaces, processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Link, Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7361, class: internal}]}
principals:
  nobody: [{uid: 60000}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [nobody]}]}
enforcement: {default: enforce}
"""


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    server = shared_lab.serve(shared_lab.host, "::", 7361)
    with shared_lab.agent(POLICY, {"scope": {"interfaces": ["lo", "to-*"]}}) as running:
        yield running
    processes.end(server)


@pytest.fixture
def newcomer(shared_lab: Lab) -> Iterator[Namespace]:
    """A namespace outside the scope, and a veth of the host's to it, which did not exist before."""
    place = Namespace(f"{shared_lab.scope.strip('/')}-newcomer", "10.77.3.2", "fd77:3::2")
    namespaces.create(place)
    namespaces.join(
        Link(shared_lab.host, "to-newcomer", ("10.77.3.1/24", "fd77:3::1/64")),
        Link(place, "eth0", ("10.77.3.2/24", "fd77:3::2/64")),
    )
    yield place
    namespaces.remove(place.name)


def filters(lab: Lab, interface: str) -> list[str]:
    shown = lab.call(lab.host, ["tc", "filter", "show", "dev", interface, "ingress"], check=False).stdout
    return [line for line in shown.splitlines() if "licet-" in line]


def gate(agent: RunningAgent, name: str) -> dict[str, str]:
    return next(one for one in agent.status()["gates"] if one["gate"] == name)


def test_a_new_interface_has_a_filter_within_a_second(
    shared_lab: Lab, agent: RunningAgent, newcomer: Namespace
) -> None:
    wait_for(lambda: filters(shared_lab, "to-newcomer"), "the new interface has our filter", timeout_s=1)
    tried = shared_lab.load(newcomer, "10.77.3.1", 7361, connections=3, cgroup=None)
    assert tried["errors"] == {"ECONNREFUSED": 3}
    assert agent.total("licet_refused_total", service="db", gate="tc") == 3
    assert gate(agent, "tc")["attached_to"] == "5 interfaces", "the container's lo is one of them"


def test_a_filter_that_somebody_removed_comes_back(shared_lab: Lab, agent: RunningAgent) -> None:
    assert filters(shared_lab, "to-remote")
    shared_lab.call(shared_lab.host, ["tc", "qdisc", "del", "dev", "to-remote", "clsact"])
    wait_for(lambda: filters(shared_lab, "to-remote"), "our filter is back", timeout_s=1)


def test_where_another_filter_hides_ours_status_says_so_and_the_socket_gate_refuses(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """Another tool takes the first place and accepts everything."""
    host = shared_lab.host
    os.kill(agent.pid, signal.SIGSTOP)  # or ours would be back first
    for command in (
        "qdisc del dev to-remote clsact",
        "qdisc add dev to-remote clsact",
        "filter add dev to-remote ingress prio 1 protocol all u32 match u32 0 0 flowid 1:1",
    ):
        shared_lab.call(host, ["tc", *command.split()])
    os.kill(agent.pid, signal.SIGCONT)
    wait_for(lambda: "to-remote" in gate(agent, "tc")["note"], "status says that ours is hidden", timeout_s=3)
    tried = shared_lab.load(shared_lab.remote, host.v4, 7361, connections=2)
    assert tried["errors"] == {"ECONNREFUSED": 2}
    assert agent.total("licet_refused_total", service="db", gate="socket") == 2
    agent.stop()
    left = shared_lab.call(host, ["tc", "filter", "show", "dev", "to-remote", "ingress"]).stdout
    assert "u32" in left, "the other tool's filter is untouched"
    assert "licet-" not in left
    shared_lab.call(host, ["tc", "qdisc", "del", "dev", "to-remote", "clsact"])


def test_where_a_tcx_program_hides_ours_status_says_so_and_the_socket_gate_refuses(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """It accepts everything, and tells nobody that it is there."""
    host = shared_lab.host
    passes = bytes.fromhex("b7000000000000009500000000000000")  # return TCX_PASS
    program = libbpf.load_program("passes", 3, passes, libbpf.TCX_INGRESS)
    assert "to-remote" not in gate(agent, "tc")["note"]
    with namespaces.entered(host):
        try:
            link = libbpf.link_create(program, socket.if_nametoindex("to-remote"), libbpf.TCX_INGRESS)
        except OSError:
            pytest.skip("this kernel has no tcx (Linux 6.6)")
    try:
        assert "to-remote" in gate(agent, "tc")["note"]
        tried = shared_lab.load(shared_lab.remote, host.v4, 7361, connections=2)
        assert tried["errors"] == {"ECONNREFUSED": 2}
        assert agent.total("licet_refused_total", service="db", gate="socket") == 2
    finally:
        os.close(link)
        os.close(program)
    assert "to-remote" not in gate(agent, "tc")["note"]


def test_letting_go_leaves_no_filter(shared_lab: Lab, agent: RunningAgent) -> None:
    assert filters(shared_lab, "lo")
    agent.kill9()
    agent.stop()
    for interface in ("lo", "to-remote", "to-container"):
        assert filters(shared_lab, interface) == []


def test_following_costs_next_to_nothing(shared_lab: Lab, agent: RunningAgent) -> None:
    def cpu_s() -> float:
        with open(f"/proc/{agent.pid}/stat") as stat:
            fields = stat.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / 100

    time.sleep(2)  # what starting takes
    before = cpu_s()
    time.sleep(4)
    assert (cpu_s() - before) / 4 < 0.05
