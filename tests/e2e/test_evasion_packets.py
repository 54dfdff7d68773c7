"""Ways around that change a connection after connect(): what arrives is judged where it arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import Client, dial
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, since, told
from tests.kernel.tc_world import ACK, RST_ACK, SYN, PacketClient, RawClient, Segment, link_address

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
RULES = """
table ip licet_test {
    chain output {
        type nat hook output priority -100
        ip daddr 127.0.0.1 tcp dport 7379 redirect to :7371
        tcp dport 7379 dnat to 10.77.1.1:7371
    }
    chain prerouting { type nat hook prerouting priority -100; tcp dport 7379 redirect to :7371; }
}
"""


@pytest.fixture(
    scope="module", params=[[], ["lo", "to-*"]], ids=["socket gate alone", "with the packet gate"]
)
def interfaces(request: pytest.FixtureRequest) -> list[str]:
    """scope.interfaces."""
    chosen: list[str] = request.param
    return chosen


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, interfaces: list[str]) -> Iterator[RunningAgent]:
    """On a host where the undeclared port 7379 leads to the declared one."""
    host = shared_lab.host
    server = shared_lab.serve(host, "0.0.0.0", 7371)
    shared_lab.call(host, ["nft", RULES])
    try:
        with shared_lab.agent(POLICY, {"scope": {"interfaces": interfaces}}) as running:
            yield running
    finally:
        shared_lab.call(host, ["nft", "delete table ip licet_test"])
        processes.end(server)


def test_a_redirected_connection_is_refused_where_it_arrives(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    before = connections(agent, "db")
    assert dial(shared_lab, host, "plain", host.v4, 7379, uid=UNLICENSED)["error"] == "ECONNREFUSED"
    assert shared_lab.load(shared_lab.remote, host.v4, 7379)["errors"] == {"ECONNREFUSED": 1}
    assert dial(shared_lab, host, "plain", "127.0.0.1", 7379, uid=UNLICENSED)["error"] == "ECONNREFUSED"
    assert since(before, agent, "db") == {("remote", "denied"): 3}
    assert told(agent, {"type": "violation", "consumer.address": shared_lab.remote.v4})["enforced"] is True


def test_who_is_licensed_connects_to_what_is_declared(shared_lab: Lab, agent: RunningAgent) -> None:
    """Through the redirection an address is all there is to know it by; docs/enforcement.md says so."""
    host = shared_lab.host
    assert dial(shared_lab, host, "plain", host.v4, 7371, uid=LICENSED)["error"] == ""
    assert dial(shared_lab, host, "plain", host.v4, 7379, uid=LICENSED)["error"] == "ECONNREFUSED"


def test_a_packet_that_no_socket_sent_is_refused_by_its_address(shared_lab: Lab, agent: RunningAgent) -> None:
    """AF_PACKET in a container, by who has CAP_NET_RAW there."""
    host, container = shared_lab.host, shared_lab.container
    before = connections(agent, "db")
    injected = Segment(container.v4, "10.77.1.1", 40003, 7371, 5, SYN)
    with PacketClient(container, "eth0", link_address(host, "to-container")) as packets:
        assert packets.ask(injected).flags == RST_ACK
    assert since(before, agent, "db") == {("remote", "denied"): 1}


@pytest.mark.parametrize(
    ("place", "source", "address"),
    [
        ("host", "127.0.0.1", "127.0.0.1"),
        ("host", "10.77.1.1", "10.77.1.1"),
        ("container", "10.77.1.2", "10.77.1.1"),
    ],
)
def test_a_packet_that_comes_late_is_no_attempt(
    shared_lab: Lab, agent: RunningAgent, place: str, source: str, address: str
) -> None:
    """An acknowledgement that was sent again finds only the listener once the server's socket is gone."""
    consumer = getattr(shared_lab, place)
    before, refused = connections(agent, "db"), agent.total("licet_refused_total", service="db")
    client = Client(shared_lab, consumer, "plain", address, 7371, uid=LICENSED)
    client.connect()
    (flow,) = agent.flows()
    source_port = flow["tuple"]["sport"]
    assert client.close()["error"] == ""
    all_closed(agent, "db")
    with RawClient(consumer) as raw:
        raw.send(Segment(source, address, source_port, 7371, 1, ACK))
    assert since(before, agent, "db") == {("loopback" if place == "host" else place, "allowed"): 1}
    assert agent.total("licet_refused_total", service="db") == refused
