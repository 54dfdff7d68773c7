"""UDP: judged where it is sent and where it arrives, counted once, refused in enforce."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

LICENSED, UNLICENSED = 1001, 1002
PORT, FREE = 5300, 5301
WAYS = ("sendto", "sendmsg", "connect", "corked")


@pytest.fixture(scope="module", params=["observe", "enforce"])
def agent(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[RunningAgent]:
    with shared_lab.agent(datagrams.policy(PORT, licensed=LICENSED, mode=request.param)) as running:
        for address in ("0.0.0.0", "::"):
            if address == "::":
                continue
            server = datagrams.serve(shared_lab, shared_lab.host, address, PORT)
        yield running
        server.kill()
        server.wait()


def enforces(agent: RunningAgent) -> bool:
    return "MODE" not in agent.files.policy.read_text() and "enforce}" in agent.files.policy.read_text()


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("address", ["127.0.0.1", "10.77.1.1"])
def test_a_local_sender(shared_lab: Lab, agent: RunningAgent, way: str, address: str) -> None:
    before = connections(agent, "dns")
    assert datagrams.send(shared_lab, shared_lab.host, way, address, PORT, count=5, uid=LICENSED) == Sent(5)
    assert since(before, agent, "dns") == {("loopback", "allowed"): 1}
    denied = datagrams.send(shared_lab, shared_lab.host, way, address, PORT, count=5, uid=UNLICENSED)
    if enforces(agent):
        assert denied.answered == 0
        assert set(denied.errors) <= {"EPERM", "EDESTADDRREQ"}
    else:
        assert denied == Sent(5)
    assert since(before, agent, "dns") == {("loopback", "allowed"): 1, ("loopback", "denied"): 1}


@pytest.mark.parametrize("way", ["sendto", "connect"])
def test_a_container(shared_lab: Lab, agent: RunningAgent, way: str) -> None:
    before = connections(agent, "dns")
    container, host = shared_lab.container, shared_lab.host
    assert datagrams.send(shared_lab, container, way, host.v4, PORT, count=5, uid=LICENSED) == Sent(5)
    assert since(before, agent, "dns") == {("container", "allowed"): 1}
    denied = datagrams.send(shared_lab, container, way, host.v4, PORT, count=5, uid=UNLICENSED)
    assert denied.answered == (0 if enforces(agent) else 5)
    assert since(before, agent, "dns") == {("container", "allowed"): 1, ("container", "denied"): 1}


@pytest.mark.parametrize("way", ["sendto", "connect"])
def test_a_remote_one(shared_lab: Lab, agent: RunningAgent, way: str) -> None:
    before = connections(agent, "dns")
    said = datagrams.send(shared_lab, shared_lab.remote, way, "10.77.2.1", PORT, count=5)
    assert said.answered == (0 if enforces(agent) else 5)
    attempts = sum(since(before, agent, "dns").values())
    assert attempts == (1 if way == "sendto" else 0), "the peer's port is no attempt of its own"
