"""What `licet mode enforce` says before it turns: every use of the last hour, by the policy in force."""

from __future__ import annotations

import os
from typing import Any

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told

POLICY = """\
version: 1
services:
  db: {{product: acme, ports: [{{port: 7661, class: internal}}]}}
  other: {{product: acme, ports: [{{port: 7662, class: internal}}]}}
principals: {{them: [{{unit: {unit}}}]}}
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [them]}}]}}
enforcement: {{default: observe, other: enforce}}
"""
BILLING, BATCH = "billing.service", "batch.service"


@pytest.fixture
def agent(shared_lab: Lab) -> Any:
    """BILLING, licensed, and BATCH, not licensed, have used db; then the policy changes sides."""
    lab = shared_lab
    with lab.agent(POLICY.format(unit=BILLING)) as running:
        server = lab.serve(lab.host, "0.0.0.0", 7661)
        for unit, count in ((BILLING, 3), (BATCH, 2)):
            lab.load(lab.host, "127.0.0.1", 7661, connections=count, cgroup=unit)
        lab.load(lab.remote, "10.77.2.1", 7661)
        for unit in (BILLING, BATCH):
            told(running, {"consumer.unit": unit, "counts": None})
        running.set_policy(POLICY.format(unit=BATCH))
        yield running
        server.kill()
        server.wait()


def preview(agent: RunningAgent, target: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = agent.control(
        "POST", "/v1/mode/preview", json={"mode": "enforce", "target": target}
    )
    return found


def refused(agent: RunningAgent) -> dict[str, tuple[str, int]]:
    return {one["consumer"]: (one["reason"], one["attempts"]) for one in preview(agent)["refused"]}


EXPECTED = {BILLING: ("unlicensed_principal", 3), "10.77.2.0/24": ("unlicensed_principal", 1)}


def test_who_has_lost_his_right_is_named_and_who_got_one_is_not(agent: RunningAgent) -> None:
    found = preview(agent)
    assert [one["service"] for one in found["turns_to_enforce"]] == ["db"]
    assert refused(agent) == EXPECTED
    assert found["unknown"] == []
    assert preview(agent, "other")["refused"] == []
    said = agent.licet("mode", "enforce", check=False).stderr
    assert BILLING in said
    assert BATCH not in said


def test_it_outlives_the_daemon_however_it_ends(agent: RunningAgent) -> None:
    agent.restart()
    assert refused(agent) == EXPECTED
    agent.kill9()
    agent.start()
    assert refused(agent) == EXPECTED
    agent.terminate()
    agent.licet("unload")  # and with it the kernel's rows
    agent.start()
    assert refused(agent) == EXPECTED
    assert (agent.files.directory / "state" / "uses.json").stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_none_is_done_without(agent: RunningAgent) -> None:
    agent.terminate()
    agent.licet("unload")
    kept = agent.files.directory / "state" / "uses.json"
    kept.unlink()
    os.mkfifo(kept)
    agent.start()
    found = preview(agent)
    assert found["refused"] == []
    assert found["known_since"] is not None
