"""A renewal beside the license that it renews: while one of the two is valid, nothing is told as grace."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import Counts, connections, since, told
from tests.fixtures.waiting import wait_for

RENEWED, ALONE = 7510, 7511
SOON_S = 5.0
OLD = "expires_at: 2020-01-01T00:00:00Z, terminates_at: 2099-01-01T00:00:00Z"
POLICY = """\
version: 1
services:
  renewed: {{product: renewed, ports: [{{port: 7510, class: internal}}]}}
  alone: {{product: alone, ports: [{{port: 7511, class: internal}}]}}
licenses:
  - {{id: old, product: renewed, {old}, entitlements: [{{id: use, principals: [anyone]}}]}}
  - {{id: new, product: renewed, {new}entitlements: [{{id: use, principals: [anyone]}}]}}
  - {{id: alone, product: alone, {old}, entitlements: [{{id: use, principals: [anyone]}}]}}
enforcement: {{default: {mode}}}
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    for port in (RENEWED, ALONE):
        shared_lab.serve(shared_lab.host, "0.0.0.0", port)
    with shared_lab.agent(policy("enforce")) as running:
        yield running


def policy(mode: str, new: str = "") -> str:
    return POLICY.format(old=OLD, new=new, mode=mode)


def connect_to_each(lab: Lab) -> None:
    for place, address in ((lab.host, "127.0.0.1"), (lab.container, lab.host.v4), (lab.remote, lab.host.v4)):
        for port in (RENEWED, ALONE):
            assert lab.load(place, address, port)["errors"] == {}


def each(decision: str) -> Counts:
    """One attempt from each place."""
    return {(origin, decision): 1 for origin in ("loopback", "container", "remote")}


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_renewal_shows_no_grace(shared_lab: Lab, agent: RunningAgent, mode: str) -> None:
    agent.set_policy(policy(mode))
    before = {service: connections(agent, service) for service in ("renewed", "alone")}
    connect_to_each(shared_lab)
    wait_for(lambda: since(before["renewed"], agent, "renewed") == each("allowed"), "all are allowed")
    assert since(before["alone"], agent, "alone") == each("grace")
    assert agent.licet("explain", "--target", "renewed/internal", "--uid", "1001").stdout.startswith(
        "renewed/internal: allowed, licensed: license new"
    )


def test_the_event_names_the_renewal(agent: RunningAgent) -> None:
    event = told(agent, {"type": "use", "service": "renewed", "origin": "loopback"})
    assert (event["decision"], event["license"]) == ("allowed", "new")
    event = told(agent, {"type": "use", "service": "alone", "origin": "loopback"})
    assert (event["decision"], event["license"]) == ("grace", "alone")


def test_each_license_takes_over_at_its_second_without_a_daemon(shared_lab: Lab, agent: RunningAgent) -> None:
    """The renewal begins while the old one is in grace, and ends before it."""
    begins_s = time.time() + SOON_S
    ends_s = begins_s + SOON_S
    begins, ends = (datetime.fromtimestamp(each, UTC).isoformat() for each in (begins_s, ends_s))
    agent.set_policy(policy("enforce", f"starts_at: {begins}, expires_at: {ends}, "))
    before = connections(agent, "renewed")
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        connect_to_each(shared_lab)
        in_time = time.time() < begins_s
        wait_for(lambda: time.time() > begins_s, "the renewal has begun")
        connect_to_each(shared_lab)
        in_time &= time.time() < ends_s
        wait_for(lambda: time.time() > ends_s, "the renewal has ended")
        connect_to_each(shared_lab)
    finally:
        os.kill(agent.pid, signal.SIGCONT)
    assert in_time, "the machine was too slow for this test: nothing was learnt"
    found = since(before, agent, "renewed")
    assert found == {**dict.fromkeys(each("grace"), 2), **each("allowed")}
