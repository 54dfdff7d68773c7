"""Who accepted: the same answers by every rung that this kernel has."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import rungs
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed
from tests.fixtures.waiting import wait_for

WORKERS, MADE = 3, 3_000
POLICY = """\
version: 1
services:
  prefork: {product: acme, ports: [{port: 6900, class: internal}]}
  alone: {product: acme, ports: [{port: 6901, class: internal}]}
  remote: {product: acme, ports: [{port: 6902, class: internal}]}
principals:
  everybody: [{cidr: 0.0.0.0/0}, {cidr: "::/0"}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [everybody]}]}
"""


@pytest.fixture(scope="module", params=rungs.RUNGS)
def agent(request: pytest.FixtureRequest, shared_lab: Lab) -> Iterator[RunningAgent]:
    rung = request.param
    if rung not in rungs.offered():
        pytest.skip(f"this kernel has no {rung}")
    settings = {"acceptor": rung, "intervals": {"summary": 1, "reconcile": 1}}
    with shared_lab.agent(POLICY, settings) as running:
        taken = {hook["hook"]: hook["rung"] for hook in running.status()["hooks"]}
        assert taken["accept"] == rung
        yield running
        running.stop()


@pytest.fixture
def server_program(shared_lab: Lab) -> Path:
    return shared_lab.executable("opt/server")


def served(agent: RunningAgent, service: str) -> dict[int, int]:
    """How many flows each process accepted."""
    rows = agent.control("GET", "/v1/acceptors")
    return {row["pid"]: row["flows"] for row in rows if row["service"] == service}


def children(process: subprocess.Popen[str]) -> set[int]:
    with open(f"/proc/{process.pid}/task/{process.pid}/children", encoding="ascii") as listed:
        return {int(pid) for pid in listed.read().split()}


def end(*processes: subprocess.Popen[str]) -> None:
    for process in processes:
        process.kill()
        process.wait()


def test_every_connection_is_credited_to_the_worker_that_accepted_it(
    shared_lab: Lab, agent: RunningAgent, server_program: Path
) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, "127.0.0.1", 6900, program=server_program, workers=WORKERS)
    workers = children(server)
    made = lab.load(lab.host, "127.0.0.1", 6900, connections=MADE, options=["--clients", "16"])
    assert made["ok"] == MADE
    assert all_closed(agent, "prefork") == MADE
    by_worker = served(agent, "prefork")
    assert set(by_worker) <= workers
    assert sum(by_worker.values()) == MADE
    end(server)


def test_a_flow_names_its_worker_while_it_is_open(
    shared_lab: Lab, agent: RunningAgent, server_program: Path
) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, "127.0.0.1", 6901, program=server_program, workers=1)
    client = lab.run(
        lab.host, [lab.executable("load"), "127.0.0.1", "6901", "--connections", "1", "--hold", "600000"]
    )
    flow = wait_for(
        lambda: next((one for one in agent.flows() if one["service"] == "alone" and one["acceptor"]), None),
        "the flow's worker is known",
    )
    assert {flow["acceptor"]["pid"]} == children(server)
    assert flow["acceptor"]["exe"] == flow["owner"]["exe"] == str(server_program)
    assert flow["consumer"]["pid"] == client.pid
    end(client, server)


def test_a_connection_from_elsewhere_is_credited_too(
    shared_lab: Lab, agent: RunningAgent, server_program: Path
) -> None:
    lab = shared_lab
    server = lab.serve(lab.host, lab.host.v4, 6902, program=server_program, workers=WORKERS)
    workers = children(server)
    assert lab.load(lab.remote, lab.host.v4, 6902, connections=100, options=["--clients", "8"])["ok"] == 100
    assert all_closed(agent, "remote") == 100
    by_worker = served(agent, "remote")
    assert set(by_worker) <= workers
    assert sum(by_worker.values()) == 100
    end(server)
