"""Listeners are judged as they come: undeclared, served by the wrong owner, open too wide, or fine."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import matching, told
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db:
    product: acme
    owner: [{unit: db.service}]
    ports: [{port: 7601, class: internal}]
  admin: {product: acme, ports: [{port: 7602, class: admin, bind: [127.0.0.0/8]}]}
  cache: {product: acme, ports: [{port: 7603, class: internal}]}
  web: {product: acme, ports: [{port: 7604, class: public}]}
  names: {product: acme, ports: [{port: 7605, class: internal, protocol: udp, bind: [127.0.0.0/8]}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
undeclared_listeners: violation
"""
UDP_SERVER = """
import socket, sys
server = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
server.bind((sys.argv[1], int(sys.argv[2])))
print("bound", flush=True)
server.recv(1)
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}}) as running:
        yield running


def serve(
    lab: Lab, address: str, port: int, place: Namespace | None = None, **run: Any
) -> subprocess.Popen[str]:
    return lab.serve(place or lab.host, address, port, **run)


def listed(agent: RunningAgent, server: subprocess.Popen[str]) -> dict[str, Any]:
    """The one listener of this process, once it has been judged."""

    def own() -> list[dict[str, Any]]:
        return [
            one
            for one in agent.listeners()
            if server.pid in [owner["pid"] for owner in one["owners"]] and one["states"]
        ]

    (found,) = wait_for(own, "the listener is listed")
    return found


def count(agent: RunningAgent, state: str, service: str) -> float:
    return agent.total("licet_listeners", state=state, service=service)


def test_one_that_is_as_declared_is_fine_and_causes_no_event(shared_lab: Lab, agent: RunningAgent) -> None:
    for address, port, cgroup in (
        ("127.0.0.1", 7601, "db.service"),
        ("10.77.1.1", 7601, "db.service/worker"),
        ("127.0.0.1", 7602, ""),
        ("::1", 7603, ""),
        ("0.0.0.0", 7604, ""),
    ):
        server = serve(shared_lab, address, port, cgroup=cgroup)
        assert listed(agent, server)["states"] == ["declared"], f"{address}:{port}"
        assert matching(agent, {"type": "listener", "owner.pid": server.pid}) == []
        processes.end(server)


def test_one_that_no_service_declares_is_undeclared(shared_lab: Lab, agent: RunningAgent) -> None:
    server = serve(shared_lab, "127.0.0.1", 7699)
    assert listed(agent, server)["states"] == ["undeclared_listener"]
    event = told(agent, {"type": "listener", "owner.pid": server.pid})
    assert (event["reason"], event["port"], event["bind"]) == ("undeclared_listener", 7699, "loopback")
    assert agent.total("licet_violations_total", reason="undeclared_listener") == 1
    processes.end(server)


def test_one_of_another_unit_is_a_wrong_owner(shared_lab: Lab, agent: RunningAgent) -> None:
    exe = shared_lab.executable("opt/impostor")
    server = serve(shared_lab, "127.0.0.1", 7601, program=exe, cgroup="impostor.service", uid=1600)
    assert listed(agent, server)["states"] == ["owner_mismatch"]
    event = told(agent, {"type": "listener", "owner.pid": server.pid})
    assert (event["reason"], event["service"], event["class"]) == ("owner_mismatch", "db", "internal")
    owner = event["owner"]
    assert (owner["exe"], owner["uid"], owner["unit"]) == (str(exe), 1600, "impostor.service")
    assert "impostor.service" in event["explanation"]
    assert agent.total("licet_violations_total", service="db", reason="owner_mismatch") == 1
    processes.end(server)


@pytest.mark.parametrize(
    ("address", "port", "service"),
    [
        ("0.0.0.0", 7602, "admin"),
        ("10.77.1.1", 7602, "admin"),
        ("0.0.0.0", 7603, "cache"),
        ("::", 7603, "cache"),
    ],
)
def test_one_that_listens_wider_than_allowed_is_an_exposure(
    shared_lab: Lab, agent: RunningAgent, address: str, port: int, service: str
) -> None:
    server = serve(shared_lab, address, port)
    assert listed(agent, server)["states"] == ["exposed_port"]
    event = told(agent, {"type": "listener", "owner.pid": server.pid})
    assert (event["reason"], event["service"], event["address"]) == ("exposed_port", service, address)
    assert agent.total("licet_exposures", service=service) == 1
    processes.end(server)
    wait_for(lambda: agent.total("licet_exposures", service=service) == 0, "it is an exposure no more")


def test_one_can_be_wrong_in_two_ways(shared_lab: Lab, agent: RunningAgent) -> None:
    server = serve(shared_lab, "0.0.0.0", 7601)
    assert set(listed(agent, server)["states"]) == {"owner_mismatch", "exposed_port"}
    processes.end(server)


def test_a_udp_listener_is_judged_too(shared_lab: Lab, agent: RunningAgent) -> None:
    for address, state in (("127.0.0.1", "declared"), ("0.0.0.0", "exposed_port")):
        argv = [processes.PYTHON, "-ISc", UDP_SERVER, address, "7605"]
        server = shared_lab.run(shared_lab.host, argv)
        assert server.stdout is not None
        assert server.stdout.readline() == "bound\n"
        found = listed(agent, server)
        assert (found["protocol"], found["service"], found["states"]) == ("udp", "names", [state])
        processes.end(server)


def test_another_namespaces_listener_is_listed_and_not_taken_for_the_hosts(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    server = serve(shared_lab, "0.0.0.0", 7602, shared_lab.container)
    other = wait_for(
        lambda: next(
            (one for one in agent.listeners() if server.pid in [who["pid"] for who in one["owners"]]), None
        ),
        "the container's listener is listed",
    )
    assert (other["service"], other["states"]) == ("", [])
    assert matching(agent, {"type": "listener", "owner.pid": server.pid}) == []
    processes.end(server)


def test_a_port_reached_from_outside_its_scope_is_an_exposure_with_the_peer(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    serve(shared_lab, "0.0.0.0", 7602)
    shared_lab.load(shared_lab.remote, shared_lab.host.v4, 7602, connections=3)
    event = told(agent, {"type": "exposure", "service": "admin"})
    assert event["consumer"] == {"identity": "address", "address": shared_lab.remote.v4}
    assert (event["reason"], event["class"]) == ("exposed_port", "admin")


def test_a_listener_that_is_gone_is_counted_no_more(shared_lab: Lab, agent: RunningAgent) -> None:
    server = serve(shared_lab, "127.0.0.1", 7601, cgroup="db.service")
    wait_for(lambda: count(agent, "declared", "db") == 1, "it is counted")
    processes.end(server)
    wait_for(lambda: count(agent, "declared", "db") == 0, "it is not counted any more")


def test_a_declared_port_that_nobody_listens_on_is_told(shared_lab: Lab, agent: RunningAgent) -> None:
    def unserved() -> list[str]:
        return [one["service"] for one in agent.status()["unserved"]]

    wait_for(lambda: "cache" in unserved(), "nobody serves it")
    assert agent.total("licet_unserved_ports", service="cache", port_class="internal") == 1
    assert "no process listens on 7603/tcp of cache/internal" in agent.licet("status").stdout
    server = serve(shared_lab, "127.0.0.1", 7603)
    wait_for(lambda: "cache" not in unserved(), "somebody serves it")
    assert agent.total("licet_unserved_ports", service="cache") == 0
    processes.end(server)
