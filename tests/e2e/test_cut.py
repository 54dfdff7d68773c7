"""A right that ends while a connection is open: cut where the policy says so, kept elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

POLICY = """\
version: 1
services:
  db: {product: acme, on_end: cut, ports: [{port: 7331, class: internal}]}
  api: {product: acme, ports: [{port: 7332, class: internal}]}
principals:
  both: [{uid: 1001}, {uid: 1002}, {cidr: 10.77.2.0/24}]
  first: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [both]}]}
enforcement: {default: enforce}
"""
FEWER = POLICY.replace("principals: [both]", "principals: [first]")


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    servers = [shared_lab.serve(shared_lab.host, "::", port) for port in (7331, 7332)]
    with shared_lab.agent(POLICY) as running:
        yield running
    for server in servers:
        processes.end(server)


def opened(lab: Lab, kind: str, address: str, port: int, uid: int, remote: bool = False) -> Client:
    client = Client(lab, lab.remote if remote else lab.host, kind, address, port, uid=uid)
    client.connect()
    return client


def open_flows(agent: RunningAgent) -> set[tuple[str, int | None]]:
    """(service, consumer's pid)."""
    return {(flow["service"], flow["consumer"].get("pid")) for flow in agent.flows()}


def test_flows_that_lost_their_right_are_cut_and_no_others(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    kept = [
        opened(shared_lab, "lasting", "127.0.0.1", 7331, 1001),
        opened(shared_lab, "lasting", host.v6, 7331, 1001),
        opened(shared_lab, "lasting", "127.0.0.1", 7332, 1002),
    ]
    ended = [
        opened(shared_lab, "lasting", address, 7331, 1002)
        for address in ("127.0.0.1", "::1", host.v4, host.v6)
    ]
    far = opened(shared_lab, "lasting", host.v4, 7331, 0, remote=True)
    agent.set_policy(FEWER)
    wait_for(lambda: len(agent.flows()) == 3, "five flows are cut")
    assert open_flows(agent) == {("db", kept[0].pid), ("db", kept[1].pid), ("api", kept[2].pid)}
    assert {client.close()["error"] for client in ended} == {"ECONNABORTED"}
    assert far.close()["error"] == "ECONNRESET"
    assert {client.close()["error"] for client in kept} == {""}
    event = told(agent, {"type": "cut", "consumer.pid": ended[0].pid})
    assert (event["service"], event["reason"], event["enforced"]) == ("db", "unlicensed_principal", True)
    assert agent.status()["flows"]["opened"] == agent.status()["flows"]["closed"] == 8
    assert shared_lab.load(host, "127.0.0.1", 7331, uid=1001)["ok"] == 1, "the listener is untouched"


def test_a_license_that_expires_cuts_at_its_second(shared_lab: Lab, agent: RunningAgent) -> None:
    end = datetime.now(UTC) + timedelta(seconds=3)
    agent.set_policy(
        POLICY.replace("id: acme, product", f"id: acme, expires_at: {end:%Y-%m-%dT%H:%M:%SZ}, product")
    )
    client = opened(shared_lab, "lasting", "127.0.0.1", 7331, 1002)
    wait_for(lambda: not agent.flows(), "it is cut", timeout_s=8)
    assert datetime.now(UTC) >= end.replace(microsecond=0)
    assert client.close()["error"] == "ECONNABORTED"
    assert told(agent, {"type": "cut"})["reason"] == "expired"


def test_nothing_is_cut_in_observe(shared_lab: Lab, agent: RunningAgent) -> None:
    client = opened(shared_lab, "lasting", "127.0.0.1", 7331, 1002)
    agent.set_policy(FEWER.replace("default: enforce", "default: observe"))
    agent.set_policy(FEWER.replace("default: enforce", "db: observe"))
    assert ("db", client.pid) in open_flows(agent)
    assert client.close()["error"] == ""
