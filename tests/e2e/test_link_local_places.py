"""An IPv4 link-local address is the same place for a container as for its host, which forwards to it: a
cloud's metadata service, a DNS cache of the node's."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, namespaces, processes
from tests.fixtures.clients import dial
from tests.fixtures.datagrams import Sent
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since

LICENSED, UNLICENSED = 1001, 1002
PORT, DATAGRAMS, HOSTS = 7390, 5390, 7391
ELSEWHERE, OWN = "169.254.169.254", "169.254.20.10"
POLICY = f"""\
version: 1
services:
  metadata:
    product: acme
    at: [{ELSEWHERE}]
    ports: [{{port: {PORT}, class: internal}}, {{port: {DATAGRAMS}, protocol: udp, class: internal}}]
  cache: {{product: acme, ports: [{{port: {HOSTS}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    lab = shared_lab
    host, remote = ("-n", lab.host.name), ("-n", lab.remote.name)
    namespaces.ip(*remote, "address", "add", f"{ELSEWHERE}/32", "dev", "eth0")
    namespaces.ip(*host, "route", "add", ELSEWHERE, "dev", "to-remote")
    namespaces.ip(*host, "address", "add", f"{OWN}/32", "dev", "lo")
    servers = [
        lab.serve(lab.remote, ELSEWHERE, PORT),
        lab.serve(lab.host, OWN, HOSTS),
        datagrams.serve(lab, lab.remote, ELSEWHERE, DATAGRAMS),
    ]
    with lab.agent(POLICY) as running:
        yield running
    for server in servers:
        processes.end(server)


@pytest.fixture(params=["loopback", "container"])
def origin(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def place(shared_lab: Lab, origin: str) -> Namespace:
    return shared_lab.host if origin == "loopback" else shared_lab.container


@pytest.mark.parametrize(
    ("service", "address", "port"), [("metadata", ELSEWHERE, PORT), ("cache", OWN, HOSTS)]
)
def test_it_is_judged_by_who_connects(
    shared_lab: Lab, agent: RunningAgent, place: Namespace, origin: str, service: str, address: str, port: int
) -> None:
    before = connections(agent, service)
    assert dial(shared_lab, place, "plain", address, port, uid=UNLICENSED)["error"] == "EPERM"
    assert dial(shared_lab, place, "plain", address, port, uid=LICENSED)["error"] == ""
    assert since(before, agent, service) == {(origin, "denied"): 1, (origin, "allowed"): 1}


def test_so_are_datagrams(shared_lab: Lab, agent: RunningAgent, place: Namespace, origin: str) -> None:
    before = connections(agent, "metadata")
    for way in ("sendto", "connect"):
        said = datagrams.send(shared_lab, place, way, ELSEWHERE, DATAGRAMS, uid=UNLICENSED)
        assert said == Sent(0, {"EPERM": 1}), way
        assert datagrams.send(shared_lab, place, way, ELSEWHERE, DATAGRAMS, uid=LICENSED) == Sent(1), way
    assert since(before, agent, "metadata") == {(origin, "denied"): 2, (origin, "allowed"): 2}
