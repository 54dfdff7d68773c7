"""`licet run --log-level debug`: each stage that a field problem is followed by has its lines."""

from __future__ import annotations

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET
from tests.fixtures.waiting import wait_for

pytestmark = pytest.mark.root
POLICY = """
version: 1
services:
  db: {product: acme, ports: [{port: 7000, class: internal}]}
principals:
  app: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: all, principals: [app]}]}
"""


def test_start_policy_gates_and_modes_can_be_followed(lab: Lab) -> None:
    with lab.agent(POLICY, start=False) as agent:
        agent.start(command=[LICET, "run", "--config", agent.files.config, "--log-level", "debug"])
        agent.files.write_policy(POLICY.replace("7000", "70000"))
        wait_for(lambda: "policy: refused" in agent.log(), "the mistake is in the log")
        agent.set_policy(POLICY.replace("7000", "7001"))
        agent.licet("mode", "enforce", "--target", "db", "--yes")
        log = agent.log()
        for begin in ("start: programs are in the kernel", "loader: ", "policy: generation", "mode: db to"):
            assert f": {begin}" in log, begin
        assert "gates: none -> connect, bind" in log
