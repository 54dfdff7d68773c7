"""Whatever happens to the daemon: no unlicensed attempt gets through, and no licensed one is refused."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections

LICENSED, UNLICENSED = 1001, 1002
RATE, SECONDS = 1000, 12
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7311, class: internal}]}
principals:
  licensed: [{uid: 1001}, {cidr: 10.77.2.0/24}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    server = shared_lab.serve(shared_lab.host, "::", 7311, workers=2)
    with shared_lab.agent(POLICY) as running:
        yield running
    processes.end(server)


def start_load(lab: Lab, place: Namespace, uid: int, address: str, clients: int = 4) -> subprocess.Popen[str]:
    argv = [
        lab.executable("load"),
        address,
        "7311",
        "--connections",
        str(RATE * SECONDS),
        "--rate",
        str(RATE),
    ]
    return lab.run(place, [*argv, "--clients", str(clients)], uid=uid)


def trouble(agent: RunningAgent) -> list[Callable[[], object]]:
    """In this order, everything that happens to an agent in its life."""
    return [
        agent.kill9,
        lambda: agent.licet("load"),
        agent.start,
        lambda: agent.set_policy(POLICY + "# changed\n"),
        agent.restart,
        agent.kill9,
        agent.start,
    ]


def test_a_daemon_that_dies_restarts_reloads_and_upgrades_lets_nothing_through(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    host, remote = shared_lab.host, shared_lab.remote
    loads = [
        start_load(shared_lab, host, LICENSED, "127.0.0.1"),
        start_load(shared_lab, remote, LICENSED, host.v4),
        start_load(shared_lab, host, UNLICENSED, host.v4),
        # by the socket gate, which takes two SYNs from one port within 3 ms for one: one client has none
        start_load(shared_lab, remote, UNLICENSED, host.v6, clients=1),
    ]
    for happens in trouble(agent):
        happens()
    with ThreadPoolExecutor(len(loads)) as pool:
        results = [json.loads(out) for out, _ in pool.map(lambda one: one.communicate(timeout=60), loads)]
    every = RATE * SECONDS
    assert [one["errors"] for one in results] == [{}, {}, {"EPERM": every}, {"ECONNREFUSED": every}]
    assert [one["ok"] for one in results] == [every, every, 0, 0]
    assert connections(agent, "db") == {
        (origin, decision): every for origin in ("loopback", "remote") for decision in ("allowed", "denied")
    }
