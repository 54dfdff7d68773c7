"""Refused in enforce: at connect() for who is on this host, at the socket for who is not."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from agent.kernel.pins import ABI_VERSION
from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since, told
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED = 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7301, class: internal}]}
  api: {product: acme, ports: [{port: 7302, class: internal}]}
principals:
  licensed: [{uid: 1001}, {cidr: 10.77.2.0/24}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce, api: observe}
"""
NOBODY = POLICY.replace(", {cidr: 10.77.2.0/24}", "")


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    for port in (7301, 7302):
        shared_lab.serve(shared_lab.host, "::", port)
    with shared_lab.agent(POLICY) as running:
        yield running


def refusing_programs(agent: RunningAgent) -> set[str]:
    """Names of the links that could refuse."""
    folder = agent.files.pins / str(ABI_VERSION) / "links"
    return {path.name.partition("_")[2] for path in folder.iterdir() if path.name.startswith("refuse_")}


def attempt(lab: Lab, place: Namespace, address: str, port: int, uid: int | None = None) -> dict[str, int]:
    """Errors by name of five connections; {} if all went through."""
    return lab.load(place, address, port, connections=5, uid=uid)["errors"]


def test_a_local_consumer_gets_eperm(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    before, opened = connections(agent, "db"), agent.status()["flows"]["opened"]
    for address in ("127.0.0.1", "::1", host.v4, host.v6):
        assert attempt(shared_lab, host, address, 7301, UNLICENSED) == {"EPERM": 5}, address
        assert attempt(shared_lab, host, address, 7301, LICENSED) == {}, address
        assert attempt(shared_lab, host, address, 7302, UNLICENSED) == {}, "observed only"
    assert since(before, agent, "db") == {("loopback", "allowed"): 20, ("loopback", "denied"): 20}
    violation = told(agent, {"type": "violation", "service": "db", "origin": "loopback"})
    assert violation["enforced"] is True
    assert violation["consumer"]["uid"] == UNLICENSED
    assert told(agent, {"type": "violation", "service": "api"})["enforced"] is False
    assert agent.status()["flows"]["opened"] == opened + 40
    assert agent.flows() == []


def test_a_container_gets_eperm(shared_lab: Lab, agent: RunningAgent) -> None:
    container = shared_lab.container
    before = connections(agent, "db")
    for address in (shared_lab.host.v4, shared_lab.host.v6):
        assert attempt(shared_lab, container, address, 7301, UNLICENSED) == {"EPERM": 5}, address
        assert attempt(shared_lab, container, address, 7301, LICENSED) == {}, address
    assert since(before, agent, "db") == {("container", "allowed"): 10, ("container", "denied"): 10}


def test_a_containers_own_loopback_is_its_own(shared_lab: Lab, agent: RunningAgent) -> None:
    container = shared_lab.container
    before = connections(agent, "db")
    for address in ("127.0.0.1", "::1"):
        server = shared_lab.serve(container, address, 7301)
        assert attempt(shared_lab, container, address, 7301, UNLICENSED) == {}
        processes.end(server)
    assert since(before, agent, "db") == {}


def test_a_remote_consumer_is_reset(shared_lab: Lab, agent: RunningAgent) -> None:
    remote, host = shared_lab.remote, shared_lab.host
    before = connections(agent, "db")
    assert attempt(shared_lab, remote, host.v4, 7301) == {}
    assert attempt(shared_lab, remote, host.v6, 7301) == {"ECONNREFUSED": 5}
    agent.set_policy(NOBODY)
    assert attempt(shared_lab, remote, host.v4, 7301) == {"ECONNREFUSED": 5}
    assert attempt(shared_lab, remote, host.v4, 7302) == {}, "observed only"
    assert since(before, agent, "db") == {("remote", "allowed"): 5, ("remote", "denied"): 10}
    violation = told(agent, {"type": "violation", "service": "db", "consumer.address": remote.v4})
    assert violation["enforced"] is True
    agent.set_policy(POLICY)


def test_in_observe_nothing_is_attached_that_could_refuse(shared_lab: Lab, agent: RunningAgent) -> None:
    assert refusing_programs(agent)
    agent.set_policy(POLICY.replace("default: enforce", "default: observe"))
    wait_for(lambda: not refusing_programs(agent), "the gates are let go of")
    assert attempt(shared_lab, shared_lab.host, "127.0.0.1", 7301, UNLICENSED) == {}
    agent.set_policy(POLICY)
    assert attempt(shared_lab, shared_lab.host, "127.0.0.1", 7301, UNLICENSED) == {"EPERM": 5}
