"""Interfaces that come later are covered; other tools' filters are left alone."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.kernel.uapi import AttachType, ProgramType
from agent.system import libbpf
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
SETTINGS = {"scope": {"interfaces": ["lo", "to-*"]}, "intervals": {"reconcile": 3600}}
"""The gates follow interfaces by themselves, and do not wait until all is looked at."""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    server = shared_lab.serve(shared_lab.host, "::", 7361)
    with shared_lab.agent(POLICY, SETTINGS) as running:
        yield running
    processes.end(server)


@pytest.fixture
def newcomer(shared_lab: Lab) -> Iterator[Namespace]:
    """A namespace outside the scope."""
    place = Namespace(f"{shared_lab.scope.strip('/')}-newcomer", "10.77.3.2", "fd77:3::2")
    namespaces.create(place)
    yield place
    namespaces.remove(place.name)


def join(lab: Lab, place: Namespace) -> None:
    """By a veth, which did not exist before."""
    namespaces.join(
        Link(lab.host, "to-newcomer", ("10.77.3.1/24", "fd77:3::1/64")),
        Link(place, "eth0", ("10.77.3.2/24", "fd77:3::2/64")),
    )
    namespaces.route_by_default(place, "10.77.3.1")


def refused(agent: RunningAgent, gate: str) -> float:
    return agent.total("licet_refused_total", service="db", gate=gate)


def filters(lab: Lab, interface: str) -> list[str]:
    shown = lab.call(lab.host, ["tc", "filter", "show", "dev", interface, "ingress"], check=False).stdout
    return [line for line in shown.splitlines() if "licet-" in line]


def gate(agent: RunningAgent, name: str) -> dict[str, str]:
    return next(one for one in agent.status()["gates"] if one["gate"] == name)


def covered(agent: RunningAgent) -> str:
    return gate(agent, "tc")["attached_to"]


def test_an_interface_that_comes_and_goes_has_a_filter(
    shared_lab: Lab, agent: RunningAgent, newcomer: Namespace
) -> None:
    for _ in range(2):  # the second has the first one's name
        join(shared_lab, newcomer)
        wait_for(lambda: filters(shared_lab, "to-newcomer"), "the new interface has our filter")
        before = refused(agent, "tc")
        # an address that the host has had before: a new one is left to the socket gate until it is known
        tried = shared_lab.load(newcomer, shared_lab.host.v4, 7361, connections=3, cgroup=None)
        assert tried["errors"] == {"ECONNREFUSED": 3}
        assert refused(agent, "tc") == before + 3
        assert covered(agent) == "5 interfaces", "the container's lo is one of them"
        shared_lab.call(shared_lab.host, ["ip", "link", "del", "to-newcomer"])
        wait_for(lambda: covered(agent) == "4 interfaces", "it is forgotten")


def test_a_filter_that_somebody_removed_comes_back(shared_lab: Lab, agent: RunningAgent) -> None:
    assert filters(shared_lab, "to-remote")
    shared_lab.call(shared_lab.host, ["tc", "qdisc", "del", "dev", "to-remote", "clsact"])
    wait_for(lambda: filters(shared_lab, "to-remote"), "our filter is back")


def refused_by_socket_gate(lab: Lab, agent: RunningAgent) -> None:
    before = refused(agent, "socket")
    tried = lab.load(lab.remote, lab.host.v4, 7361, connections=2)
    assert tried["errors"] == {"ECONNREFUSED": 2}
    assert refused(agent, "socket") == before + 2


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
    wait_for(lambda: "to-remote" in gate(agent, "tc")["note"], "status says that ours is hidden")
    refused_by_socket_gate(shared_lab, agent)
    shared_lab.call(host, ["tc", "qdisc", "del", "dev", "to-remote", "clsact"])
    wait_for(lambda: "to-remote" not in gate(agent, "tc")["note"], "ours is alone again")


def test_where_a_tcx_program_hides_ours_status_says_so_and_the_socket_gate_refuses(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """It accepts everything, and tells nobody that it is there."""
    host = shared_lab.host
    passes = bytes.fromhex("b7000000000000009500000000000000")  # return TCX_PASS
    program = libbpf.load_program("passes", ProgramType.SCHED_CLS, passes, AttachType.TCX_INGRESS)
    assert "to-remote" not in gate(agent, "tc")["note"]
    with namespaces.entered(host):
        try:
            link = libbpf.link_create(program, socket.if_nametoindex("to-remote"), AttachType.TCX_INGRESS)
        except OSError:
            pytest.skip("this kernel has no tcx (Linux 6.6)")
    try:
        assert "to-remote" in gate(agent, "tc")["note"]
        refused_by_socket_gate(shared_lab, agent)
    finally:
        os.close(link)
        os.close(program)
    assert "to-remote" not in gate(agent, "tc")["note"]


def test_a_filter_that_is_there_is_not_put_again(
    shared_lab: Lab, agent: RunningAgent, newcomer: Namespace
) -> None:
    """What following costs is measured by the benchmark; here: it has looked, and done nothing there."""
    host = shared_lab.host
    with subprocess.Popen(
        ["ip", "netns", "exec", host.name, "tc", "monitor"], stdout=subprocess.PIPE, text=True
    ) as monitor:
        try:
            wait_for(lambda: _hears(monitor.pid), "tc hears what changes")
            join(shared_lab, newcomer)
            wait_for(lambda: filters(shared_lab, "to-newcomer"), "the new interface has our filter")
            shared_lab.call(host, ["ip", "link", "del", "to-newcomer"])
            wait_for(lambda: covered(agent) == "4 interfaces", "it is forgotten")
        finally:
            monitor.terminate()
        said = monitor.communicate()[0]
    names = ("to-newcomer", "to-remote", "to-container", "lo")
    assert [name for name in names if f" dev {name} " in said] == ["to-newcomer"]


def _hears(pid: int) -> bool:
    """Has it joined the kernel's announcements? Columns are sk, Eth, Pid, Groups, …, Inode."""
    held = {os.readlink(fd) for fd in Path(f"/proc/{pid}/fd").iterdir()}
    rows = [line.split() for line in Path(f"/proc/{pid}/net/netlink").read_text().splitlines()[1:]]
    return any(f"socket:[{row[-1]}]" in held and int(row[3], 16) for row in rows)


def test_letting_go_leaves_filters_of_others_and_none_of_ours(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    theirs = "filter add dev to-remote ingress prio 9 protocol all u32 match u32 0 0 flowid 1:1"
    shared_lab.call(host, ["tc", *theirs.split()])
    assert filters(shared_lab, "lo")
    agent.kill9()
    agent.stop()
    for interface in ("lo", "to-remote", "to-container"):
        assert filters(shared_lab, interface) == []
    assert "u32" in shared_lab.call(host, ["tc", "filter", "show", "dev", "to-remote", "ingress"]).stdout
    shared_lab.call(host, ["tc", "qdisc", "del", "dev", "to-remote", "clsact"])
