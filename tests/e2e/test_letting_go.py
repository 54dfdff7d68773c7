"""Unloaded while it enforces: nothing is refused any more, and nothing is left."""

from __future__ import annotations

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import pins_in
from tests.fixtures.namespaces import Namespace

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


def attempt(lab: Lab, place: Namespace, address: str) -> dict[str, int]:
    """Errors by name of five connections; {} if all went through."""
    return lab.load(place, address, 7301, connections=5, uid=1002)["errors"]


@pytest.fixture(scope="module", autouse=True)
def server(shared_lab: Lab) -> None:
    shared_lab.serve(shared_lab.host, "::", 7301)


@pytest.mark.parametrize("interfaces", [[], ["lo", "to-*"]], ids=["without tc", "with tc"])
@pytest.mark.parametrize("first", ["terminate", "kill9", ""], ids=["ended", "killed", "running"])
def test_unloading_while_enforcing_lets_go_at_once(
    shared_lab: Lab, interfaces: list[str], first: str
) -> None:
    host, remote = shared_lab.host, shared_lab.remote
    agent = shared_lab.agent(POLICY, {"scope": {"interfaces": interfaces}})
    assert attempt(shared_lab, host, "127.0.0.1") == {"EPERM": 5}
    assert attempt(shared_lab, remote, host.v6) == {"ECONNREFUSED": 5}
    if first:
        getattr(agent, first)()
    agent.licet("unload")
    assert shared_lab.call(host, ["tc", "filter", "show", "dev", "to-remote", "ingress"]).stdout == ""
    assert pins_in(agent.files.pins) == []
    assert attempt(shared_lab, host, "127.0.0.1") == {}
    assert attempt(shared_lab, remote, host.v6) == {}
