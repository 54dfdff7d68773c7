"""One user who listens on very many sockets does not make the agent deaf, nor its answers unreadable."""

from __future__ import annotations

import subprocess
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from agent.errors import LicetError
from agent.export.client import ControlClient
from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, owner: [{unit: db.service}], ports: [{port: 7671, class: internal}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
CROWD = """
import resource, signal, socket, sys
count = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 50,) * 2)
held = []
for number in range(count):
    one = socket.socket()
    one.bind((f"127.1.{number // 250}.{1 + number % 250}", 20_000 + number % 7))
    one.listen(1)
    held.append(one)
print("listening", flush=True)
signal.pause()
"""
LISTENERS = 18_000


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY, {"intervals": {"reconcile": 1}}) as running:
        server = shared_lab.serve(shared_lab.host, "127.0.0.1", 7671, cgroup="db.service")
        yield running
        processes.end(server)


def undeclared(agent: RunningAgent) -> list[dict[str, Any]]:
    return [one for one in agent.events("listener") if one["reason"] == "undeclared_listener"]


def told_of(event: dict[str, Any]) -> int:
    """How many listeners an event tells of."""
    return int(event.get("counts", {}).get("listeners", 1))


def crowd(lab: Lab) -> subprocess.Popen[str]:
    process = lab.run(lab.host, [processes.PYTHON, "-ISc", CROWD, str(LISTENERS)], uid=1201)
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


def test_the_agent_goes_on_answering_and_telling(shared_lab: Lab, agent: RunningAgent) -> None:
    wait_for(lambda: agent.total("licet_listeners", service="db", state="declared"), "db is declared")
    failed: list[LicetError] = []
    done = threading.Event()

    def ask() -> None:
        client = ControlClient(agent.files.control)
        while not done.wait(0.2):
            try:
                client.get("/v1/status")
            except LicetError as error:  # DaemonUnreachable: not within the time that `licet status` has
                failed.append(error)

    asking = threading.Thread(target=ask)
    asking.start()
    many = crowd(shared_lab)
    try:
        wait_for(
            lambda: agent.total("licet_listeners", state="undeclared_listener") >= LISTENERS,
            "all are counted",
            timeout_s=60,
        )
    finally:
        done.set()
        asking.join()
    assert failed == []
    shared_lab.load(shared_lab.host, "127.0.0.1", 7671, cgroup="app.service")
    use = told(agent, {"type": "use", "consumer.unit": "app.service"}, timeout_s=30)
    assert use["owner"]["unit"] == "db.service"
    wait_for(lambda: sum(map(told_of, undeclared(agent))) >= LISTENERS, "each is told of")
    assert len(undeclared(agent)) < LISTENERS / 10
    assert len(agent.listeners()) > LISTENERS
    assert len(agent.licet("listeners").stdout.splitlines()) > LISTENERS
    processes.end(many)
    wait_for(lambda: len(agent.listeners()) < LISTENERS, "they are gone", timeout_s=30)
