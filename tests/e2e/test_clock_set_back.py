"""No clock extends a license, and a clock that was wrong for a moment costs nothing once it is right."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from agent.system.boottime import boot_id, boot_ns
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import matching, told
from tests.fixtures.shifted_clock import ShiftedClock, reboot, store_right_time
from tests.fixtures.waiting import wait_for

PORT, HOUR_S, YEAR_S = 7320, 3600, 365 * 86400
POLICY = """\
version: 1
services: {{db: {{product: acme, ports: [{{port: 7320, class: internal}}]}}}}
licenses:
  - id: acme
    product: acme
    starts_at: {starts}
    expires_at: {ends}
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
enforcement: {{default: enforce}}
"""


def policy(starts_s: float, ends_s: float) -> str:
    """A license that holds from and until so many seconds from now."""
    at = [datetime.fromtimestamp(time.time() + seconds, UTC).isoformat() for seconds in (starts_s, ends_s)]
    return POLICY.format(starts=at[0], ends=at[1])


@pytest.fixture
def clock(lab: Lab) -> ShiftedClock:
    lab.serve(lab.host, "127.0.0.1", PORT)
    return ShiftedClock(lab.directory)


@pytest.fixture
def agent(lab: Lab) -> Iterator[RunningAgent]:
    """One whose state is of a run with a right clock, not started yet."""
    with lab.agent(policy(-HOUR_S, HOUR_S), start=False) as made:
        store_right_time(made)
        yield made


def is_licensed(lab: Lab) -> bool:
    return lab.load(lab.host, "127.0.0.1", PORT)["errors"] == {}


def offset_s(agent: RunningAgent) -> float:
    return agent.total("licet_license_time_offset_seconds")


def waits_until_off_by(agent: RunningAgent, seconds: float) -> None:
    wait_for(lambda: abs(offset_s(agent) - seconds) < 2, f"the wall clock is {seconds} s from license time")


def restart(agent: RunningAgent, clock: ShiftedClock) -> None:
    agent.terminate()
    clock.start(agent)


def test_set_back_a_year_an_ended_license_stays_ended(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    agent.files.write_policy(policy(-HOUR_S, -60))
    clock.start(agent)
    assert not is_licensed(lab)
    clock.set(-YEAR_S)
    began = told(agent, {"type": "license_time", "off": True})
    assert (began["severity"], round(began["offset_s"])) == ("warning", -YEAR_S)
    assert "365 days behind license time" in began["message"]
    waits_until_off_by(agent, -YEAR_S)
    assert agent.total("licet_trouble", cause="clock") == 1
    assert began["message"] in " ".join(agent.licet("status").stdout.split())
    assert agent.get("/readyz")[0] == 200
    assert not is_licensed(lab)
    restart(agent, clock)
    assert not is_licensed(lab)
    agent.terminate()
    reboot(agent)
    clock.start(agent)
    assert not is_licensed(lab)
    assert agent.total("licet_license_valid", license="acme") == 0
    clock.set(0)
    told(agent, {"type": "license_time", "off": False})
    assert agent.total("licet_trouble", cause="clock") == 0
    assert not is_licensed(lab)


def test_forward_five_years_at_run_time_costs_nothing(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    clock.start(agent)
    clock.set(5 * YEAR_S)
    waits_until_off_by(agent, 5 * YEAR_S)
    told(agent, {"type": "license_time", "off": True})
    assert is_licensed(lab)
    assert agent.total("licet_license_valid", license="acme") == 1
    restart(agent, clock)
    assert is_licensed(lab)
    clock.set(0)
    waits_until_off_by(agent, 0)
    agent.terminate()
    reboot(agent)
    clock.start(agent)
    assert is_licensed(lab)
    assert not matching(agent, {"type": "violation"})


def test_forward_five_years_at_a_boot_denies_at_most_while_it_is_wrong(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    reboot(agent)
    clock.set(5 * YEAR_S)
    clock.start(agent)
    assert not is_licensed(lab)
    restart(agent, clock)
    assert not is_licensed(lab)
    clock.set(0)
    wait_for(lambda: is_licensed(lab), "what the boot took is given up")
    waits_until_off_by(agent, 0)
    restart(agent, clock)
    assert is_licensed(lab)
    agent.terminate()
    reboot(agent)
    clock.start(agent)
    assert is_licensed(lab)


def test_a_reboot_while_it_is_wrong_keeps_nothing_of_it(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    reboot(agent)
    clock.set(5 * YEAR_S)
    clock.start(agent)
    agent.terminate()
    reboot(agent)
    clock.set(-time.time())  # and now its battery is empty
    clock.start(agent)
    assert is_licensed(lab)


def test_a_dead_clock_in_1970_goes_on_from_the_stored_time(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    reboot(agent)
    clock.set(-time.time())
    clock.start(agent)
    assert is_licensed(lab)
    agent.set_policy(policy(-HOUR_S, -60))
    assert not is_licensed(lab), "an hour of license time ago it had ended"
    agent.set_policy(policy(HOUR_S, 2 * HOUR_S))
    assert is_licensed(lab), "it may have begun: nobody knows the time"
    told(agent, {"type": "use", "decision": "grace", "reason": "clock_unsynced"})
    clock.set(0)
    wait_for(lambda: not is_licensed(lab), "the clock was set: the license has not begun")


def test_a_license_begins_by_a_wall_clock_that_is_ahead(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    agent.files.write_policy(policy(HOUR_S, 9 * HOUR_S))
    clock.start(agent)
    assert not is_licensed(lab)
    clock.set(2 * HOUR_S)
    wait_for(lambda: is_licensed(lab), "it has begun by the wall clock")
    assert agent.total("licet_license_valid", license="acme") == 1
    clock.set(0)
    wait_for(lambda: not is_licensed(lab), "it has not")
    assert agent.total("licet_license_valid", license="acme") == 0


def test_what_0_1_0_went_by_in_this_boot_goes_on(lab: Lab, clock: ShiftedClock, agent: RunningAgent) -> None:
    agent.files.write_policy(policy(-HOUR_S, -60))
    state = agent.files.directory / "state" / "clock.json"
    offset_ns = time.time_ns() - boot_ns()
    state.write_text(json.dumps({"seen_unix_s": time.time(), "boot": boot_id(), "offset_ns": offset_ns}))
    clock.set(-HOUR_S)
    clock.start(agent)
    assert not is_licensed(lab)
    waits_until_off_by(agent, -HOUR_S)


def test_a_damaged_file_is_told_and_denies_nothing(
    lab: Lab, clock: ShiftedClock, agent: RunningAgent
) -> None:
    state = agent.files.directory / "state" / "clock.json"
    state.write_text("{")
    clock.start(agent)
    assert f"{state}: damaged: " in told(agent, {"type": "license_time", "severity": "warning"})["message"]
    assert is_licensed(lab)
    assert agent.get("/readyz")[0] == 200
    restart(agent, clock)
    assert len(matching(agent, {"type": "license_time"})) == 1
