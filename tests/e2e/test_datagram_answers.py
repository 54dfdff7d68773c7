"""UDP: what answers a socket that has sent is no attempt, whatever the ports are; what only looks like an
answer is one."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, processes
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

NTP, RANGE, ELSEWHERE = 5123, range(5400, 5500), 5600
POLICY = f"""\
version: 1
services:
  ntp: {{product: acme, ports: [{{port: {NTP}, protocol: udp, class: internal}}]}}
  rpc: {{product: acme, ports: [{{port: {RANGE[0]}-{RANGE[-1]}, protocol: udp, class: internal}}]}}
principals:
  nobody: [{{uid: 1009}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [nobody]}}]}}
enforcement: {{default: enforce}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY) as running:
        yield running


@pytest.fixture
def remote_server(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[int]:
    """Elsewhere, on a port that this host declares, too, and on one that it does not."""
    server = datagrams.serve(shared_lab, shared_lab.remote, "10.77.2.2", request.param)
    yield request.param
    server.kill()
    server.wait()


@pytest.mark.parametrize("remote_server", [NTP, ELSEWHERE], indirect=True)
@pytest.mark.parametrize("source_port", [NTP, RANGE[50]])
@pytest.mark.parametrize("way", ["sendto", "connect"])
def test_the_answer_to_a_socket_on_a_declared_port(
    shared_lab: Lab, agent: RunningAgent, remote_server: int, source_port: int, way: str
) -> None:
    before = connections(agent, "ntp"), connections(agent, "rpc")
    said = datagrams.send(
        shared_lab, shared_lab.host, way, "10.77.2.2", remote_server, count=3, source_port=source_port
    )
    assert said == Sent(3)
    assert since(before[0], agent, "ntp") == since(before[1], agent, "rpc") == {}


@pytest.mark.parametrize("where", ["host", "container"])
@pytest.mark.parametrize("way", ["sendto", "connect"])
def test_a_server_of_this_host_answers_a_client_on_a_declared_port(
    shared_lab: Lab, agent: RunningAgent, where: str, way: str
) -> None:
    """The answer goes to a declared port, and is no attempt of the server's."""
    place: Namespace = getattr(shared_lab, where)
    server = datagrams.serve(shared_lab, shared_lab.host, "0.0.0.0", ELSEWHERE)
    before = connections(agent, "rpc")
    said = datagrams.send(
        shared_lab, place, way, shared_lab.host.v4, ELSEWHERE, count=3, source_port=RANGE[60]
    )
    processes.end(server)
    assert said == Sent(3)
    assert since(before, agent, "rpc") == {}


def test_another_peer_than_was_sent_to_is_refused(shared_lab: Lab, agent: RunningAgent) -> None:
    """From the same port: a right of the address that was sent to, not of whoever knows the ports."""
    held = shared_lab.run(
        shared_lab.host,
        [processes.PYTHON, "-ISuc", HOLD, str(RANGE[70]), "10.77.2.9", str(ELSEWHERE)],
        stdin=-1,
    )
    assert held.stdout is not None
    assert held.stdout.readline() == "sent\n"
    before = connections(agent, "rpc")
    said = datagrams.send(
        shared_lab, shared_lab.remote, "sendto", "10.77.2.1", RANGE[70], count=2, source_port=ELSEWHERE
    )
    out, _ = held.communicate("\n", timeout=10)
    assert json.loads(out) == []
    assert said.answered == 0
    assert since(before, agent, "rpc") == {("remote", "denied"): 1}


HOLD = """
import json, socket, sys
held = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
held.bind(("", int(sys.argv[1])))
held.sendto(b"x", (sys.argv[2], int(sys.argv[3])))
print("sent", flush=True)
sys.stdin.readline()
held.settimeout(0.1)
got = []
try:
    while True:
        got.append(held.recvfrom(10)[1][0])
except TimeoutError:
    print(json.dumps(got))
"""


def test_who_was_let_in_before_is_no_peer_that_was_sent_to(shared_lab: Lab, agent: RunningAgent) -> None:
    """A server's answers to a client give the client no right for what comes after the policy has changed."""
    server = datagrams.serve(shared_lab, shared_lab.host, "0.0.0.0", NTP)
    client = shared_lab.run(
        shared_lab.remote,
        [processes.PYTHON, "-ISuc", ASK, "10.77.2.1", str(NTP)],
        stdin=-1,
    )
    assert client.stdin is not None
    assert client.stdout is not None

    def answered() -> bool:
        client.stdin.write("\n")
        client.stdin.flush()
        return client.stdout.readline() == "True\n"

    assert not answered()
    agent.licet("mode", "observe", "--target", "ntp", "--yes")
    assert [answered() for _ in range(3)] == [True] * 3
    agent.licet("mode", "enforce", "--target", "ntp", "--yes")
    assert [answered() for _ in range(3)] == [False] * 3
    processes.end(client)
    processes.end(server)


ASK = """
import socket, sys
client = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
client.settimeout(0.3)
for line in sys.stdin:
    client.sendto(b"x", (sys.argv[1], int(sys.argv[2])))
    try:
        print(bool(client.recv(10)), flush=True)
    except OSError:
        print(False, flush=True)
"""
