"""Who listens is known though a look at every descriptor of this host takes long."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, owner: [{unit: db.service}], ports: [{port: 7641, class: internal}]}
  names:
    product: acme
    owner: [{unit: db.service}]
    ports: [{port: 7642, class: internal, protocol: udp}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
CROWD = """
import os, resource, signal, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (int(sys.argv[1]),) * 2)
try:
    while True:
        os.dup(0)
except OSError:
    pass
for _ in range(int(sys.argv[2])):
    if os.fork() == 0:
        signal.pause()
print("open", flush=True)
signal.pause()
"""
LATE_SERVER = """
import socket, sys
if sys.argv[3:] == []:
    first = socket.create_server(("127.0.0.1", 7649))
print("up", flush=True)
sys.stdin.readline()
kind = socket.SOCK_DGRAM if sys.argv[1] == "udp" else socket.SOCK_STREAM
server = socket.socket(socket.AF_INET, kind)
server.bind(("127.0.0.1", int(sys.argv[2])))
if sys.argv[1] == "tcp":
    server.listen()
print("bound", flush=True)
sys.stdin.readline()
"""
DESCRIPTORS = 60_000
"""A look at all of them takes some 0.3 s, and is not repeated for half a minute."""


@pytest.fixture(scope="module")
def early(shared_lab: Lab) -> subprocess.Popen[str]:
    """A process from before the agent, whose descriptors the first look has read."""
    argv = [processes.PYTHON, "-ISc", LATE_SERVER, "udp", "7642", "early"]
    process = shared_lab.run(
        shared_lab.host, argv, cgroup=shared_lab.cgroup("impostor.service"), stdin=subprocess.PIPE
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "up\n"
    return process


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, early: subprocess.Popen[str]) -> Iterator[RunningAgent]:
    each = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    argv = [processes.PYTHON, "-ISc", CROWD, str(each), str(DESCRIPTORS // each)]
    crowd = shared_lab.run(shared_lab.host, argv)
    assert crowd.stdout is not None
    assert crowd.stdout.readline() == "open\n"
    with shared_lab.agent(POLICY, {"intervals": {"reconcile": 1}}) as running:
        yield running
    processes.end(crowd)


def listed(agent: RunningAgent, port: int) -> dict[str, Any]:
    def there() -> list[dict[str, Any]]:
        return [one for one in agent.listeners() if one["port"] == port and one["states"]]

    (found,) = wait_for(there, "the listener is listed")
    return found


def pids(listener: dict[str, Any]) -> list[int]:
    return [owner["pid"] for owner in listener["owners"]]


@contextmanager
def server(
    lab: Lab, agent: RunningAgent, protocol: str, port: int, cgroup: str
) -> Iterator[subprocess.Popen[str]]:
    """A process that the agent has looked at before it takes the port."""
    argv = [processes.PYTHON, "-ISc", LATE_SERVER, protocol, str(port)]
    process = lab.run(lab.host, argv, cgroup=cgroup, stdin=subprocess.PIPE)
    assert process.stdout is not None
    assert process.stdin is not None
    assert process.stdout.readline() == "up\n"
    wait_for(lambda: process.pid in pids(listed(agent, 7649)), "it has been looked at")
    process.stdin.write("\n")
    process.stdin.flush()
    assert process.stdout.readline() == "bound\n"
    yield process
    processes.end(process)
    wait_for(lambda: not [one for one in agent.listeners() if one["port"] in (port, 7649)], "it is gone")


def test_an_owner_that_listens_is_found_at_once(shared_lab: Lab, agent: RunningAgent) -> None:
    with server(shared_lab, agent, "tcp", 7641, "db.service") as process:
        found = listed(agent, 7641)
        assert (found["states"], pids(found)) == (["declared"], [process.pid])


def test_a_stranger_that_listens_is_told_by_name(shared_lab: Lab, agent: RunningAgent) -> None:
    with server(shared_lab, agent, "tcp", 7641, "impostor.service") as process:
        found = listed(agent, 7641)
        assert (found["states"], pids(found)) == (["owner_mismatch"], [process.pid])
        event = told(agent, {"type": "listener", "reason": "owner_mismatch"})
        assert event["owner"]["pid"] == process.pid


def test_a_stranger_that_came_since_the_look_is_found_without_listen(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    with server(shared_lab, agent, "udp", 7642, "impostor.service") as process:
        found = listed(agent, 7642)
        assert (found["states"], pids(found)) == (["owner_mismatch"], [process.pid])


def test_one_that_nothing_is_known_of_is_never_called_declared(
    agent: RunningAgent, early: subprocess.Popen[str]
) -> None:
    assert early.stdin is not None
    assert early.stdout is not None
    early.stdin.write("\n")
    early.stdin.flush()
    assert early.stdout.readline() == "bound\n"
    found = listed(agent, 7642)
    assert (found["states"], pids(found)) == (["owner_unknown"], [])
    assert agent.total("licet_listeners", service="names", state="declared") == 0
    processes.end(early)
