"""A UDP socket is connected anew while it sends: the address of one place and the port of another, which no
hook has seen together. Here it is refused where it arrives; to another host it goes, and is told of."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import SLOWER

TORN = Path(__file__).parents[1] / "fixtures" / "torn.c"
UNLICENSED = 1002
TRIES = 10
"""It takes two threads that run at once, which a busy machine does not always have."""
PORT, FAR, FREE = 5300, 5302, 5399
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {PORT}, protocol: udp, class: internal}}]}}
  far: {{product: acme, at: [10.77.2.2], ports: [{{port: {FAR}, protocol: udp, class: internal}}]}}
principals:
  nobody: [{{uid: 1009}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [nobody]}}]}}
enforcement: {{default: enforce}}
"""
SINK = """
import socket, sys
sink = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sink.bind(("0.0.0.0", int(sys.argv[1])))
print("ready", flush=True)
sys.stdin.readline()
sink.setblocking(False)
received = 0
try:
    while sink.recv(1):
        received += 1
except BlockingIOError:
    print(received)
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY) as running:
        yield running


@pytest.fixture(scope="module")
def torn(shared_lab: Lab) -> Path:
    program = shared_lab.directory / "torn"
    subprocess.run(["cc", "-O2", "-pthread", "-o", program, TORN], check=True)
    return program


def received(lab: Lab, there: Namespace, port: int, way: Sequence[str | Path]) -> int:
    """How many datagrams have come to that port while the unlicensed user did so on the host."""
    argv = [processes.PYTHON, "-ISuc", SINK, str(port)]
    sink = lab.run(there, argv, stdin=subprocess.PIPE)
    assert sink.stdout is not None
    assert sink.stdout.readline() == "ready\n"
    lab.call(lab.host, way, uid=UNLICENSED)
    return int(sink.communicate("\n", timeout=10 * SLOWER)[0])


def test_it_is_refused_where_it_arrives(shared_lab: Lab, agent: RunningAgent, torn: Path) -> None:
    way = [torn, "10.77.1.1", str(FREE), "10.77.2.2", str(PORT), "3"]
    for _ in range(TRIES):
        assert received(shared_lab, shared_lab.host, PORT, way) == 0
        if connections(agent, "dns"):
            break
    assert connections(agent, "dns").keys() == {("remote", "denied")}
    assert agent.status()["losses"]["refusals"] == 0


def test_to_another_host_it_is_told_of(shared_lab: Lab, agent: RunningAgent, torn: Path) -> None:
    """Each one that has arrived: the sink's queue may hold no more than some of them."""
    way = [torn, "10.77.2.2", str(FREE), "10.77.2.9", str(FAR), "3"]
    for _ in range(TRIES):
        before = agent.status()["losses"]["refusals"]
        came = received(shared_lab, shared_lab.remote, FAR, way)
        assert agent.status()["losses"]["refusals"] - before >= came
        if came:
            return
    raise AssertionError("it never came to it")
