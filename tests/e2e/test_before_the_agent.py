"""What was there before the agent: connections and listeners, judged, listed and counted once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import pytest

from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, matching, told
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED = 1001, 1002
POLICY = """\
version: 1
services:
  local: {product: acme, ports: [{port: 7100, class: internal}], owner: [{unit: db.service}]}
  fenced: {product: acme, ports: [{port: 7101, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
"""
LATER = POLICY.replace("port: 7101", "port: 7102")


@dataclass(frozen=True, slots=True)
class Before:
    """What ran before the agent did."""

    server: int
    licensed: Client
    stranger: Client
    container: Client
    remote: Client
    undeclared: Client
    agent: RunningAgent

    @property
    def judged(self) -> tuple[Client, ...]:
        return self.licensed, self.stranger, self.container, self.remote


@pytest.fixture(scope="module")
def before(shared_lab: Lab) -> Iterator[Before]:
    lab = shared_lab
    host = lab.host
    server = lab.serve(host, "::", 7100, cgroup="db.service", uid=1200)
    lab.serve(host, host.v4, 7102)
    clients = (
        Client(lab, host, "plain", "127.0.0.1", 7100, uid=LICENSED),
        Client(lab, host, "plain", "::1", 7100, uid=UNLICENSED, cgroup="cron.service"),
        Client(lab, lab.container, "plain", host.v4, 7100, uid=UNLICENSED, cgroup="pod-1"),
        Client(lab, lab.remote, "plain", host.v4, 7100),
        Client(lab, host, "plain", host.v4, 7102, uid=UNLICENSED),
    )
    for client in clients:
        client.connect()
    with lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}}) as agent:
        yield Before(server.pid, *clients, agent)


ONCE_EACH = {
    ("loopback", "allowed"): 1,
    ("loopback", "denied"): 1,
    ("container", "denied"): 1,
    ("remote", "denied"): 1,
}


def test_connections_from_before_are_judged_and_counted_once(before: Before) -> None:
    assert connections(before.agent, "local") == ONCE_EACH


def test_connections_from_before_are_listed_with_both_ends(shared_lab: Lab, before: Before) -> None:
    flows = {flow["consumer"].get("pid"): flow for flow in before.agent.flows()}
    assert set(flows) == {before.licensed.pid, before.stranger.pid, before.container.pid, None}
    for flow in flows.values():
        assert flow["pre_existing"] is True
        assert flow["established"] is True
        assert flow["owner"]["pid"] == before.server
        assert flow["owner"]["unit"] == "db.service"
        assert flow["acceptor"]["pid"] == before.server
    assert flows[before.stranger.pid]["consumer"]["unit"] == "cron.service"
    assert flows[before.stranger.pid]["decision"] == "denied"
    assert flows[before.container.pid]["origin"] == "container"
    assert flows[None]["consumer"] == {"identity": "address", "address": shared_lab.remote.v4}


def test_an_unlicensed_connection_from_before_is_one_violation_event(before: Before) -> None:
    violation = told(before.agent, {"type": "violation", "consumer.pid": before.stranger.pid})
    assert violation["pre_existing"] is True
    assert violation["owner"]["pid"] == before.server
    assert violation["reason"] == "unlicensed_principal"


def test_a_remote_consumer_from_before_counts_as_remote(before: Before) -> None:
    def by(consumer: str) -> float:
        return before.agent.total("licet_violations_by_consumer_total", service="local", consumer=consumer)

    assert (by("remote"), by("cron.service"), by("other")) == (1, 1, 0)


def test_a_listener_from_before_has_its_owner(before: Before) -> None:
    listener = next(one for one in before.agent.listeners() if one["port"] == 7100)
    assert [owner["pid"] for owner in listener["owners"]] == [before.server]
    assert listener["owners"][0]["unit"] == "db.service"
    assert listener["states"] == ["exposed_port"]
    event = told(before.agent, {"type": "listener", "port": 7100})
    assert (event["owner"]["pid"], event["reason"]) == (before.server, "exposed_port")


def test_a_new_connection_to_a_listener_from_before_has_its_owner(shared_lab: Lab, before: Before) -> None:
    client = Client(shared_lab, shared_lab.host, "plain", "127.0.0.1", 7100, uid=1003)
    client.connect()
    flow = next(one for one in before.agent.flows() if one["consumer"].get("pid") == client.pid)
    assert flow["pre_existing"] is False
    assert flow["owner"]["pid"] == before.server
    violation = told(before.agent, {"type": "violation", "consumer.pid": client.pid})
    assert violation["owner"]["pid"] == before.server
    assert client.close()["error"] == ""
    assert connections(before.agent, "local") == ONCE_EACH | {("loopback", "denied"): 2}


def test_a_restart_counts_and_tells_them_no_second_time(before: Before) -> None:
    agent = before.agent
    counted = connections(agent, "local")
    cookies = {flow["cookie"] for flow in agent.flows()}
    agent.kill9()
    agent.start()
    assert connections(agent, "local") == counted
    assert {flow["cookie"] for flow in agent.flows()} == cookies
    agent.restart()
    assert connections(agent, "local") == counted
    assert len(matching(agent, {"type": "violation", "consumer.pid": before.stranger.pid})) == 1


def test_a_port_declared_later_takes_in_its_connections(before: Before) -> None:
    assert connections(before.agent, "fenced") == {}
    before.agent.set_policy(LATER)
    wait_for(lambda: connections(before.agent, "fenced"), "the connection from before is judged")
    assert connections(before.agent, "fenced") == {("loopback", "denied"): 1}
    violation = told(before.agent, {"type": "violation", "service": "fenced"})
    assert violation["consumer"]["pid"] == before.undeclared.pid


def test_an_attempt_made_while_the_daemon_is_dead_is_told_with_both_ends(
    shared_lab: Lab, before: Before
) -> None:
    lab, agent = shared_lab, before.agent
    agent.kill9()
    late = lab.load(lab.host, "127.0.0.1", 7100, uid=1004, program=lab.executable("opt/late"))
    agent.start()
    violation = told(agent, {"type": "violation", "consumer.pid": late["pid"]})
    assert violation["consumer"]["exe"] == str(lab.executable("opt/late"))
    assert violation["consumer"]["args"][0] == str(lab.executable("opt/late"))
    assert violation["owner"]["pid"] == before.server


def test_those_that_end_while_the_daemon_is_dead_are_gone_when_it_is_back(before: Before) -> None:
    agent = before.agent
    counted = connections(agent, "local")
    agent.kill9()
    for client in (*before.judged, before.undeclared):
        client.close()
    agent.start()
    wait_for(lambda: not agent.flows(), "no flow is left")
    assert agent.status()["flows"]["open"] == 0
    assert connections(agent, "local") == counted
