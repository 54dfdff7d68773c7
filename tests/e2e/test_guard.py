"""Ports that are never refused, so that whoever made a mistake can take it back."""

from __future__ import annotations

from tests.fixtures.lab import Lab
from tests.fixtures.saying import connections, told

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7301, class: internal}]}
principals:
  licensed: [{uid: 1001}, {cidr: 10.77.2.0/24}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""


def test_a_failsafe_port_is_never_refused(lab: Lab) -> None:
    lab.serve(lab.host, "::", 7301)
    with lab.agent(POLICY, {"guard": {"failsafe_ports": [22, 7301]}}) as agent:
        assert lab.load(lab.host, "127.0.0.1", 7301, connections=5, uid=1002)["errors"] == {}
        assert lab.load(lab.remote, lab.host.v6, 7301, connections=5)["errors"] == {}
        assert connections(agent, "db") == {("loopback", "denied"): 5, ("remote", "denied"): 5}
        assert told(agent, {"type": "violation", "origin": "loopback"})["enforced"] is False
