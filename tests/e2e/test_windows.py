"""Validity windows end in the kernel, at their second, whatever the daemon is doing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from agent.model import show_time
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, matching, told, violations
from tests.fixtures.waiting import wait_for

SOON_S = 4.0
PORTS = {"lasting": 7500, "grace": 7501, "entitled": 7502, "future": 7503}
POLICY = """\
version: 1
services:
  lasting: {{product: lasting, ports: [{{port: 7500, class: internal}}]}}
  grace: {{product: grace, ports: [{{port: 7501, class: internal}}]}}
  entitled: {{product: entitled, ports: [{{port: 7502, class: internal}}]}}
  future: {{product: future, ports: [{{port: 7503, class: internal}}]}}
licenses:
  - id: lasting
    product: lasting
    expires_at: {soon}
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
  - id: grace
    product: grace
    expires_at: {soon}
    terminates_at: 2099-01-01T00:00:00Z
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
  - id: entitled
    product: entitled
    entitlements: [{{id: use, classes: [internal], principals: [anyone], expires_at: {soon}}}]
  - id: future
    product: future
    starts_at: 2098-01-01T00:00:00Z
    expires_at: 2099-01-01T00:00:00Z
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
"""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    for port in PORTS.values():
        shared_lab.serve(shared_lab.host, "127.0.0.1", port)
    with shared_lab.agent(policy(time.time() + 3600)) as running:
        yield running


def policy(soon_unix_s: float) -> str:
    return POLICY.format(soon=datetime.fromtimestamp(soon_unix_s, UTC).isoformat())


def connect_to_each(lab: Lab) -> None:
    for port in PORTS.values():
        lab.load(lab.host, "127.0.0.1", port)


def pause(agent: RunningAgent) -> Callable[[], None]:
    pid = agent.pid
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def crash(agent: RunningAgent) -> Callable[[], None]:
    agent.kill9()
    return agent.start


@pytest.mark.parametrize("silence", [pause, crash])
def test_a_license_expires_at_its_second_while_the_daemon_is_silent(
    shared_lab: Lab, agent: RunningAgent, silence: Callable[[RunningAgent], Callable[[], None]]
) -> None:
    before = {service: connections(agent, service) for service in PORTS}
    expires_unix_s = time.time() + SOON_S
    agent.set_policy(policy(expires_unix_s))
    wake = silence(agent)
    try:
        connect_to_each(shared_lab)
        in_time = time.time() < expires_unix_s
        wait_for(lambda: time.time() > expires_unix_s, "the license has expired")
        connect_to_each(shared_lab)
    finally:
        wake()
    assert in_time, "the machine was too slow for this test: nothing was learnt"

    def added(service: str) -> dict[str, float]:
        now = connections(agent, service)
        found = {key[1]: now[key] - before[service].get(key, 0) for key in now}
        return {decision: count for decision, count in found.items() if count}

    assert added("lasting") == {"allowed": 1, "denied": 1}
    assert added("grace") == {"allowed": 1, "grace": 1}
    assert added("entitled") == {"allowed": 1, "denied": 1}
    assert agent.total("licet_license_valid", license="lasting") == 0
    assert agent.total("licet_license_valid", license="grace") == 1
    assert set(violations(agent, "lasting")) == set(violations(agent, "entitled")) == {"expired"}


def test_an_expired_license_is_told_with_its_name(agent: RunningAgent) -> None:
    event = told(agent, {"type": "violation", "service": "lasting"})
    assert (event["reason"], event["license"], event["entitlement"]) == ("expired", "lasting", "use")


def test_a_license_that_has_not_begun_denies_and_says_so(agent: RunningAgent) -> None:
    event = told(agent, {"service": "future", "type": "violation"})
    assert (event["reason"], event["license"]) == ("not_yet_valid", "future")
    assert agent.total("licet_license_valid", license="future") == 0


def test_what_expires_and_ends_is_told_though_nobody_connects(agent: RunningAgent) -> None:
    soon = datetime.fromtimestamp(time.time() + SOON_S, UTC)
    agent.set_policy(policy(soon.timestamp()))
    at = {"type": "license", "expires_at": show_time(soon)}
    ended = told(agent, {**at, "license": "lasting", "validity": "expired"})
    assert (ended["severity"], ended["terminates_at"]) == ("warning", show_time(soon))
    assert datetime.fromisoformat(ended["time"]) >= soon
    assert ended["message"] == f"license 'lasting' ended at {show_time(soon)}: it licenses no consumer"
    assert told(agent, {**at, "license": "grace", "validity": "grace"})["severity"] == "warning"
    told(agent, {**at, "license": "entitled", "entitlement": "use", "validity": "expired"})
    assert not matching(agent, {"type": "license", "license": "future"})
    said = [
        f"license 'lasting' ended at {show_time(soon)}: it licenses no consumer",
        f"license 'grace' expired at {show_time(soon)}: grace until 2099-01-01T00:00:00Z",
        f"license 'entitled', entitlement 'use' ended at {show_time(soon)}: it licenses no consumer",
    ]
    warned = "\n".join(agent.control("GET", "/v1/status")["policy"]["warnings"])
    checked = agent.licet("policy", "check").stdout
    assert [line for line in said if line not in warned or line not in checked] == []
    licenses = {one["id"]: one for one in agent.control("GET", "/v1/policy")["licenses"]}
    assert {name: one["validity"] for name, one in licenses.items()} == {
        "lasting": "expired",
        "grace": "grace",
        "entitled": "valid",
        "future": "not_yet_valid",
    }
    renewed = datetime.fromtimestamp(time.time() + 3600, UTC)
    agent.set_policy(policy(renewed.timestamp()))
    now = {"type": "license", "license": "lasting", "expires_at": show_time(renewed)}
    assert told(agent, now)["severity"] == "info"
