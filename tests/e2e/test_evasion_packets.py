"""Ways around that change a connection after connect(): what arrives is judged where it arrives."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import dial
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, told

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
    chain output { type nat hook output priority -100; tcp dport 7379 dnat to 10.77.1.1:7371; }
    chain prerouting { type nat hook prerouting priority -100; tcp dport 7379 redirect to :7371; }
}
"""


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    """On a host where the undeclared port 7379 leads to the declared one."""
    host = shared_lab.host
    server = shared_lab.serve(host, "0.0.0.0", 7371)
    shared_lab.call(host, ["nft", RULES])
    try:
        with shared_lab.agent(POLICY, {"scope": {"interfaces": ["lo", "to-*"]}}) as running:
            yield running
    finally:
        shared_lab.call(host, ["nft", "delete table ip licet_test"])
        processes.end(server)


def test_a_redirected_connection_is_refused_where_it_arrives(shared_lab: Lab, agent: RunningAgent) -> None:
    host = shared_lab.host
    assert dial(shared_lab, host, "plain", host.v4, 7379, uid=UNLICENSED)["error"] == "ECONNREFUSED"
    assert shared_lab.load(shared_lab.remote, host.v4, 7379)["errors"] == {"ECONNREFUSED": 1}
    assert connections(agent, "db") == {("remote", "denied"): 2}
    assert told(agent, {"type": "violation", "consumer.address": shared_lab.remote.v4})["enforced"] is True


def test_who_is_licensed_connects_to_what_is_declared(shared_lab: Lab, agent: RunningAgent) -> None:
    """Through the redirection an address is all there is to know it by; docs/enforcement.md says so."""
    host = shared_lab.host
    assert dial(shared_lab, host, "plain", host.v4, 7371, uid=LICENSED)["error"] == ""
    assert dial(shared_lab, host, "plain", host.v4, 7379, uid=LICENSED)["error"] == "ECONNREFUSED"
