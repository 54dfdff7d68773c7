"""A process that is gone before user space looks is named all the same."""

from __future__ import annotations

import pwd

from tests.fixtures.lab import Lab
from tests.fixtures.saying import all_closed, connections, matching, told
from tests.fixtures.waiting import wait_for

PORT, ATTEMPTS = 5432, 200
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 5432, class: internal}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [admin], principals: [anyone]}]}
"""
ONCE = f"exec 3<>/dev/tcp/127.0.0.1/{PORT}"
MANY = f"for ((i = 0; i < {ATTEMPTS}; i++)); do bash -c '{ONCE}'; done"


def test_200_shells_that_connect_and_are_gone_are_one_violation_and_a_sum(lab: Lab) -> None:
    nobody = pwd.getpwnam("nobody")
    lab.serve(lab.host, "127.0.0.1", PORT)
    with lab.agent(POLICY, {"intervals": {"summary": 1, "reconcile": 1}}) as agent:
        lab.call(lab.host, ["bash", "-c", MANY], uid=nobody.pw_uid, gid=nobody.pw_gid, cgroup="cron.service")
        assert connections(agent, "db") == {("loopback", "denied"): ATTEMPTS}
        violation = told(agent, {"type": "violation"})
        consumer = violation["consumer"]
        assert consumer["args"] == ["bash", "-c", ONCE]
        assert consumer["exe"].endswith("/bin/bash")
        assert (consumer["comm"], consumer["identity"]) == ("bash", "process")
        assert (consumer["uid"], consumer["user"]) == (nobody.pw_uid, "nobody")
        assert consumer["cgroup"] == f"{lab.scope}/cron.service"
        assert consumer["unit"] == "cron.service"

        def summarised() -> int:
            return sum(one["counts"]["attempts"] for one in matching(agent, {"type": "summary"}))

        wait_for(lambda: summarised() >= ATTEMPTS - 1, "summaries tell the rest")
        assert summarised() == ATTEMPTS - 1
        assert matching(agent, {"type": "summary"})[-1]["counts"]["total"] == ATTEMPTS
        assert len(matching(agent, {"type": "violation"})) == 1
        assert all_closed(agent, "db") == ATTEMPTS
