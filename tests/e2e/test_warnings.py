"""`licet policy check` warns of what the daemon warns of: people check before they reload."""

from __future__ import annotations

import json

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET

POLICY = """
version: 1
services:
  db: {product: p, owner: [{unit: idle.service}], ports: [{port: 5432, class: internal}]}
principals:
  app: [{unit: idle.service}, {unit: never.service}, {exe: SCRIPT}, {exe: /no/such/program}, {user: noone}]
  spare: [{group: none-such}]
licenses: [{id: l, product: p, entitlements: [{id: e, principals: [app]}]}]
"""


def test_a_check_on_this_host_warns_of_what_the_daemon_warns_of(shared_lab: Lab) -> None:
    shared_lab.cgroup("idle.service")
    script = shared_lab.directory / "psql"
    script.write_text("#!/bin/sh\nexec /bin/sleep 1\n")
    script.chmod(0o755)
    with shared_lab.agent(POLICY.replace("SCRIPT", str(script))) as agent:
        daemon = agent.status()["policy"]["warnings"]
        argv = [LICET, "policy", "check", "--config", agent.files.config, "--json"]
        here = json.loads(shared_lab.call(shared_lab.host, argv, cgroup=None).stdout)
        user = shared_lab.call(shared_lab.host, argv, cgroup=None, uid=65534, check=False).stdout
        elsewhere = json.loads(shared_lab.call(shared_lab.host, [*argv, "--elsewhere"], cgroup=None).stdout)[
            "warnings"
        ]
    assert len(daemon) >= 7
    for part in (
        "'idle.service' selects no process now: no process is in it",
        "'never.service' is not running",
        f"'{script}' is a script: the process that runs it is",
        "/no/such/program",
        "'noone' does not exist",
        "'none-such' does not exist",
        "principal 'spare' is not used by any license or restriction",
    ):
        assert any(part in warning for warning in daemon), part
    assert [_text(one) for one in here["warnings"]] == daemon
    assert [one["reason"] for one in elsewhere if "spare" not in one["reason"]] == []
    if user:  # files of the lab may be root's alone
        assert {one["reason"] for one in json.loads(user)["warnings"]} <= {
            one["reason"] for one in here["warnings"]
        }


def _text(finding: dict[str, str]) -> str:
    remedy = f" ({finding['remedy']})" if finding["remedy"] else ""
    return f"{finding['file']}:{finding['line']}: {finding['reason']}{remedy}"
