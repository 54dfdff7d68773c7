"""A load balancer's program that changes where connect() goes: judged by where it leads, by its process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.balancer import balancing
from tests.fixtures.clients import dial
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, since, told

LICENSED, UNLICENSED = 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7371, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""


@pytest.fixture(
    scope="module", params=[[], ["lo", "to-*"]], ids=["socket gate alone", "with the packet gate"]
)
def agent(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[RunningAgent]:
    server = shared_lab.serve(shared_lab.host, "0.0.0.0", 7371)
    with shared_lab.agent(POLICY, {"scope": {"interfaces": request.param}}) as running:
        running.wait_until_it_stands_by()
        yield running
    processes.end(server)


@pytest.mark.parametrize("address", ["127.0.0.1", "10.77.1.1"])
def test_a_connect_that_is_changed_is_judged_by_where_it_goes(
    shared_lab: Lab, agent: RunningAgent, address: str
) -> None:
    host, elsewhere = shared_lab.host, "192.0.2.7"
    before, opened = connections(agent, "db"), agent.status()["flows"]["opened"]
    with balancing(shared_lab.scope, 7379, (address, 7371)):  # behind the observers
        assert dial(shared_lab, host, "plain", elsewhere, 7379, uid=UNLICENSED)["error"] == "ECONNREFUSED"
        assert dial(shared_lab, host, "plain", elsewhere, 7379, uid=LICENSED)["error"] == ""
        container = dial(shared_lab, shared_lab.container, "plain", "10.77.1.1", 7371, uid=UNLICENSED)
    assert container["error"] == "EPERM"
    assert since(before, agent, "db") == {
        ("loopback", "denied"): 1,
        ("loopback", "allowed"): 1,
        ("container", "denied"): 1,
    }
    event = told(agent, {"type": "violation", "consumer.uid": UNLICENSED, "origin": "loopback"})
    assert event["enforced"] is True
    assert all_closed(agent, "db") == opened + 1


def test_and_reported_where_nothing_is_enforced(shared_lab: Lab, agent: RunningAgent) -> None:
    agent.set_policy(POLICY.replace("default: enforce", "default: observe"))
    before, opened = connections(agent, "db"), agent.status()["flows"]["opened"]
    with balancing(shared_lab.scope, 7379, ("127.0.0.1", 7371)):
        assert (
            dial(shared_lab, shared_lab.host, "plain", "192.0.2.7", 7379, uid=UNLICENSED + 1)["error"] == ""
        )
    event = told(agent, {"type": "violation", "consumer.uid": UNLICENSED + 1})
    assert (event["reason"], event["enforced"]) == ("unlicensed_principal", False)
    assert since(before, agent, "db") == {("loopback", "denied"): 1}
    assert all_closed(agent, "db") == opened + 1
