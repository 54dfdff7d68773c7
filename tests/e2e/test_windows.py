"""Validity windows end in the kernel, at their second, whatever the daemon is doing."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import pytest

from agent.model import show_time, show_utc
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, matching, since, told, violations
from tests.fixtures.shifted_clock import ShiftedClock, store_right_time
from tests.fixtures.waiting import wait_for

SOON_S = 4.0
GRACE_S = 3.0
HOUR_S = 3600
PORTS = {"lasting": 7500, "grace": 7501, "entitled": 7502, "future": 7503, "brief": 7504}
POLICY = """\
version: 1
services:
  lasting: {{product: lasting, ports: [{{port: 7500, class: internal}}]}}
  grace: {{product: grace, ports: [{{port: 7501, class: internal}}]}}
  entitled: {{product: entitled, ports: [{{port: 7502, class: internal}}]}}
  future: {{product: future, ports: [{{port: 7503, class: internal}}]}}
  brief: {{product: brief, ports: [{{port: 7504, class: internal}}]}}
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
  - id: brief
    product: brief
    expires_at: {soon}
    terminates_at: {soon_over}
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
"""


@pytest.fixture(scope="module")
def clock(shared_lab: Lab) -> ShiftedClock:
    return ShiftedClock(shared_lab.directory)


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, clock: ShiftedClock) -> Iterator[RunningAgent]:
    for port in PORTS.values():
        shared_lab.serve(shared_lab.host, "127.0.0.1", port)
    with shared_lab.agent(policy(time.time() + HOUR_S), start=False) as running:
        store_right_time(running)
        clock.start(running)
        yield running


def policy(soon_unix_s: float, grace_s: float = HOUR_S) -> str:
    soon, over = (datetime.fromtimestamp(soon_unix_s + more, UTC).isoformat() for more in (0, grace_s))
    return POLICY.format(soon=soon, soon_over=over)


def connect_to_each(lab: Lab) -> None:
    for port in PORTS.values():
        lab.load(lab.host, "127.0.0.1", port)


Silence = Callable[[RunningAgent, ShiftedClock], Callable[[], None]]


def pause(agent: RunningAgent, clock: ShiftedClock) -> Callable[[], None]:
    pid = agent.pid
    os.kill(pid, signal.SIGSTOP)
    return lambda: os.kill(pid, signal.SIGCONT)


def crash(agent: RunningAgent, clock: ShiftedClock) -> Callable[[], None]:
    agent.kill9()
    return lambda: clock.start(agent)


def run_on(agent: RunningAgent, clock: ShiftedClock) -> Callable[[], None]:
    return lambda: None


@pytest.mark.parametrize(
    ("silence", "shift_s"), [(pause, 0), (crash, 0), (pause, -HOUR_S), (crash, -HOUR_S), (run_on, -HOUR_S)]
)
def test_a_license_expires_and_ends_at_its_second_with_a_silent_daemon_and_a_clock_set_back(
    shared_lab: Lab, agent: RunningAgent, clock: ShiftedClock, silence: Silence, shift_s: int
) -> None:
    clock.set(shift_s)
    wait_for(lambda: agent.total("licet_trouble", cause="clock") == bool(shift_s), "the clock is looked at")
    try:
        tries = (passing_through(shared_lab, agent, clock, silence, slower) for slower in (1, 2, 4))
        found = next((one for one in tries if one), None)
    finally:
        clock.set(0)
    assert found is not None, "the machine was too slow for this test: nothing was learnt"
    counted, valid = found
    assert valid == {"lasting": 0, "grace": 1, "brief": 0}
    assert counted["lasting"] == counted["entitled"] == {"allowed": 1, "denied": 1}
    assert counted["grace"] == {"allowed": 1, "grace": 1}
    assert counted["brief"] == {"allowed": 1, "grace": 1, "denied": 1}
    assert set(violations(agent, "lasting")) == set(violations(agent, "entitled")) == {"expired"}


def passing_through(
    lab: Lab, agent: RunningAgent, clock: ShiftedClock, silence: Silence, slower: int
) -> tuple[dict[str, dict[str, float]], dict[str, float]] | None:
    """What was counted by service and decision before the end, after it, and after the grace; and which
    licenses are valid then. None: the connections came too late."""
    before = {service: connections(agent, service) for service in PORTS}
    grace_s = GRACE_S * slower
    expires_s = time.time() + SOON_S * slower
    agent.set_policy(policy(expires_s, grace_s))
    wake = silence(agent, clock)
    try:
        connect_to_each(lab)
        in_time = time.time() < expires_s
        wait_for(lambda: time.time() > expires_s, "the license has expired", timeout_s=60)
        connect_to_each(lab)
        in_time = in_time and time.time() < expires_s + grace_s
        wait_for(lambda: time.time() > expires_s + grace_s, "its grace is over", timeout_s=60)
        lab.load(lab.host, "127.0.0.1", PORTS["brief"])
    finally:
        wake()
    if not in_time:
        return None
    counted = {service: since(before[service], agent, service) for service in PORTS}
    valid = {name: agent.total("licet_license_valid", license=name) for name in ("lasting", "grace", "brief")}
    return {service: {key[1]: n for key, n in found.items()} for service, found in counted.items()}, valid


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
    assert ended["message"] == f"license 'lasting' ended at {show_utc(soon)}: it licenses no consumer"
    assert told(agent, {**at, "license": "grace", "validity": "grace"})["severity"] == "warning"
    told(agent, {**at, "license": "entitled", "entitlement": "use", "validity": "expired"})
    assert not matching(agent, {"type": "license", "license": "future"})
    said = [
        f"license 'lasting' ended at {show_utc(soon)}: it licenses no consumer",
        f"license 'grace' expired at {show_utc(soon)}: grace until 2099-01-01 00:00 UTC",
        f"license 'entitled', entitlement 'use' ended at {show_utc(soon)}: it licenses no consumer",
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
        "brief": "grace",
    }
    renewed = datetime.fromtimestamp(time.time() + 3600, UTC)
    agent.set_policy(policy(renewed.timestamp()))
    now = {"type": "license", "license": "lasting", "expires_at": show_time(renewed)}
    assert told(agent, now)["severity"] == "info"
