"""Every way to connect is judged as what it is, and counted once. One service for each: counts are whole."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.pins import Pins
from tests.fixtures import namespaces
from tests.fixtures.clients import Client, dial
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, lost, told, violations

LICENSED, UNLICENSED = 1001, 1002
WAYS = {  # service: (kind of client, where it connects to, where its server listens)
    "plain": ("plain", "127.0.0.1", "127.0.0.1"),
    "mapped": ("plain", "::ffff:127.0.0.1", "127.0.0.1"),
    "unspecified": ("plain", "0.0.0.0", "127.0.0.1"),
    "unspecified-v6": ("plain", "::", "::1"),
    "unspecified-mapped": ("plain", "::ffff:0.0.0.0", "127.0.0.1"),
    "wildcard": ("plain", "127.0.0.1", "::"),
    "only-v6": ("plain", "::1", "::1"),
    "own-address": ("plain", "10.77.1.1", "10.77.1.1"),
    "loopback-net": ("plain", "127.9.8.7", "0.0.0.0"),
    "fastopen": ("fastopen", "127.0.0.1", "127.0.0.1"),
    "fastopen-connect": ("fastopen-connect", "127.0.0.1", "127.0.0.1"),
    "mptcp": ("mptcp", "127.0.0.1", "127.0.0.1"),
    "nonblocking": ("nonblocking", "10.77.1.1", "10.77.1.1"),
}
OTHERS = ("loopback-source", "reconnect", "udp", "refused", "from-container", "from-remote", "old-socket")
PORTS = {service: 7000 + number for number, service in enumerate([*WAYS, *OTHERS])}


def policy() -> str:
    services = "".join(
        f"  {name}: {{product: acme, ports: [{{port: {port}, class: internal, bind: [0.0.0.0/0, '::/0']"
        + (", protocol: udp" if name == "udp" else "")
        + "}]}\n"
        for name, port in PORTS.items()
    )
    return f"""\
version: 1
services:
{services}
principals:
  licensed: [{{uid: {LICENSED}}}, {{cidr: 10.77.2.0/24}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[tuple[RunningAgent, Client]]:
    with namespaces.entered(shared_lab.host):
        # client, server, and data in the first SYN with no cookie, on every listener (ip-sysctl.rst)
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")
    early = Client(shared_lab, shared_lab.host, "plain", "127.0.0.1", PORTS["old-socket"], uid=UNLICENSED)
    settings = {"intervals": {"summary": 1, "reconcile": 1}}
    with shared_lab.agent(policy(), settings) as running:
        yield running, early


def denied(lab: Lab, service: str, pid: int, origin: str = "loopback") -> dict[str, Any]:
    return {
        "type": "violation",
        "service": service,
        "class": "internal",
        "reason": "unlicensed_principal",
        "origin": origin,
        "consumer.pid": pid,
        "consumer.uid": UNLICENSED,
        "consumer.identity": "process",
        "consumer.cgroup": lab.scope,
    }


@pytest.mark.parametrize("service", WAYS)
def test_each_way_is_judged_and_counted_once(
    shared_lab: Lab, agent: tuple[RunningAgent, Client], service: str
) -> None:
    lab, running = shared_lab, agent[0]
    kind, to, listens_at = WAYS[service]
    port = PORTS[service]
    server = lab.serve(lab.host, listens_at, port)
    allowed = dial(lab, lab.host, kind, to, port, uid=LICENSED)
    refused = dial(lab, lab.host, kind, to, port, uid=UNLICENSED)
    assert (allowed["error"], refused["error"]) == ("", "")
    assert connections(running, service) == {("loopback", "allowed"): 1, ("loopback", "denied"): 1}
    assert violations(running, service) == {"unlicensed_principal": 1}
    event = told(running, denied(lab, service, refused["pid"]))
    assert event["owner"]["pid"] == server.pid
    assert all_closed(running, service) == 2


def test_a_socket_connected_again_is_two_attempts_and_two_flows(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, running = shared_lab, agent[0]
    lab.serve(lab.host, "127.0.0.1", PORTS["reconnect"])
    said = dial(lab, lab.host, "reconnect", "127.0.0.1", PORTS["reconnect"], uid=UNLICENSED)
    assert (said["error"], said["attempts"]) == ("", 2)
    assert connections(running, "reconnect") == {("loopback", "denied"): 2}
    assert all_closed(running, "reconnect") == 2


def test_a_loopback_source_with_a_routable_destination_is_one_attempt(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    host, port = shared_lab.host, PORTS["loopback-source"]
    shared_lab.serve(host, host.v4, port)
    assert shared_lab.load(host, host.v4, port, connections=3, options=["--sources", "1"])["ok"] == 3
    assert connections(agent[0], "loopback-source") == {("loopback", "denied"): 3}


def test_udp_that_connects_is_an_attempt_without_a_flow(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, running = shared_lab, agent[0]
    said = dial(lab, lab.host, "udp", "127.0.0.1", PORTS["udp"], uid=UNLICENSED)
    assert connections(running, "udp") == {("loopback", "denied"): 1}
    event = told(running, denied(lab, "udp", said["pid"]))
    assert event["tuple"]["protocol"] == "udp"
    assert all_closed(running, "udp") == 0


def test_a_refused_port_is_an_attempt_without_a_flow(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, running = shared_lab, agent[0]
    said = dial(lab, lab.host, "plain", "127.0.0.1", PORTS["refused"], uid=UNLICENSED)
    assert said["error"] == "ECONNREFUSED"
    assert connections(running, "refused") == {("loopback", "denied"): 1}
    told(running, denied(lab, "refused", said["pid"]))
    assert all_closed(running, "refused") == 0


def test_a_socket_made_before_the_agent_is_judged_when_it_connects(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, (running, early) = shared_lab, agent
    lab.serve(lab.host, "127.0.0.1", PORTS["old-socket"])
    assert connections(running, "old-socket") == {}
    early.connect()
    assert early.close()["error"] == ""
    assert connections(running, "old-socket") == {("loopback", "denied"): 1}
    told(running, denied(lab, "old-socket", early.pid))
    assert all_closed(running, "old-socket") == 1


@pytest.mark.parametrize("family", ["v4", "v6"])
def test_a_container_is_counted_where_it_connects_and_not_again_where_it_arrives(
    shared_lab: Lab, agent: tuple[RunningAgent, Client], family: str
) -> None:
    lab, running = shared_lab, agent[0]
    service, to = "from-container", getattr(lab.host, family)
    before = connections(running, service)
    lab.serve(lab.host, to, PORTS[service])
    said = dial(lab, lab.container, "plain", to, PORTS[service], uid=UNLICENSED, cgroup=f"pod-{family}")
    assert said["error"] == ""
    now = connections(running, service)
    assert now == {("container", "denied"): before.get(("container", "denied"), 0) + 1}
    expected = denied(lab, service, said["pid"], "container")
    event = told(running, expected | {"consumer.cgroup": f"{lab.scope}/pod-{family}"})
    assert event["consumer"]["netns"] != 0
    all_closed(running, service)


def test_a_remote_consumer_is_judged_by_its_address(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, running = shared_lab, agent[0]
    port = PORTS["from-remote"]
    lab.serve(lab.host, "::", port)
    assert dial(lab, lab.remote, "plain", lab.host.v4, port)["error"] == ""
    assert dial(lab, lab.remote, "plain", lab.host.v6, port)["error"] == ""
    assert connections(running, "from-remote") == {("remote", "allowed"): 1, ("remote", "denied"): 1}
    event = told(running, {"type": "violation", "service": "from-remote", "reason": "unlicensed_principal"})
    assert event["consumer"] == {"identity": "address", "address": lab.remote.v6}
    assert all_closed(running, "from-remote") == 2


def test_another_namespaces_own_loopback_is_not_the_hosts(
    shared_lab: Lab, agent: tuple[RunningAgent, Client]
) -> None:
    lab, running = shared_lab, agent[0]
    for place, address in ((lab.container, "127.0.0.1"), (lab.container, "::1")):
        service = "plain"
        before = connections(running, service)
        outbound = running.total("licet_unprotected_connections_total", direction="outbound")
        _serve_and_dial(lab, place, address, PORTS[service])
        assert connections(running, service) == before
        after = running.total("licet_unprotected_connections_total", direction="outbound")
        assert after == outbound + 1


def _serve_and_dial(lab: Lab, place: Namespace, address: str, port: int) -> None:
    lab.serve(place, address, port)
    assert dial(lab, place, "plain", address, port, uid=UNLICENSED)["error"] == ""


def test_no_half_of_a_connection_is_still_looked_for(agent: tuple[RunningAgent, Client]) -> None:
    """What the passive side looks up is gone once it has been found, or the consumer has closed."""
    tuples = Pins(agent[0].files.pins).open_map("tuples")
    assert list(tuples) == []
    tuples.close()


def test_nothing_was_lost_on_the_way(agent: tuple[RunningAgent, Client]) -> None:
    assert lost(agent[0]) == {}
