"""With the machine's own clock: set back, set forward, and asleep."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

import pytest

from agent.system.boottime import boot_ns
from tests.fixtures.hosts_clock import ONLY_IN_A_GUEST, restored, shift
from tests.fixtures.lab import Lab
from tests.fixtures.saying import told
from tests.fixtures.shifted_clock import store_right_time
from tests.fixtures.waiting import wait_for

pytestmark = ONLY_IN_A_GUEST
PORT, YEAR_S = 7321, 365 * 86400
SLEEPS = Path("/sys/power/mem_sleep")
CAN_SLEEP = SLEEPS.exists() and "deep" in SLEEPS.read_text()
POLICY = """\
version: 1
services: {{db: {{product: acme, ports: [{{port: 7321, class: internal}}]}}}}
licenses:
  - id: acme
    product: acme
    expires_at: {ends}
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
enforcement: {{default: enforce}}
"""


def policy(ends_s: float) -> str:
    return POLICY.format(ends=datetime.fromtimestamp(time.time() + ends_s, UTC).isoformat())


def is_licensed(lab: Lab) -> bool:
    return lab.load(lab.host, "127.0.0.1", PORT)["errors"] == {}


def test_set_back_a_year_and_forward_five_nothing_changes(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    with restored(), lab.agent(policy(86400), start=False) as agent:
        store_right_time(agent)
        agent.start()
        shift(-YEAR_S)
        told(agent, {"type": "license_time", "off": True})
        assert is_licensed(lab)
        shift(YEAR_S)
        told(agent, {"type": "license_time", "off": False})
        shift(5 * YEAR_S)
        wait_for(lambda: agent.total("licet_trouble", cause="clock") == 1, "the agent sees it")
        assert is_licensed(lab)
        agent.terminate()
        shift(-6 * YEAR_S)
        agent.start()
        assert is_licensed(lab)
        shift(YEAR_S)
        wait_for(lambda: agent.total("licet_trouble", cause="clock") == 0, "it is right again")
        agent.set_policy(policy(-1))
        shift(-YEAR_S)
        assert not is_licensed(lab)


@pytest.mark.skipif(not CAN_SLEEP, reason="this machine has no suspend to RAM")
@pytest.mark.parametrize("shift_s", [0, -YEAR_S])
def test_a_license_that_ends_while_the_machine_sleeps_has_ended_when_it_wakes(lab: Lab, shift_s: int) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    with restored(), lab.agent(policy(86400), start=False) as agent:
        store_right_time(agent)
        agent.start()
        agent.set_policy(policy(90))
        shift(shift_s)
        wait_for(lambda: agent.total("licet_trouble", cause="clock") == bool(shift_s), "it sees the clock")
        assert is_licensed(lab)
        os.kill(agent.pid, signal.SIGSTOP)
        try:
            assert slept_s(120) > 90
            assert not is_licensed(lab)
        finally:
            os.kill(agent.pid, signal.SIGCONT)
        wait_for(lambda: agent.total("licet_license_valid", license="acme") == 0, "the agent sees it, too")
        offset_s = agent.total("licet_license_time_offset_seconds")
        assert abs(offset_s - shift_s) < 5, f"the wall clock is {offset_s} s from license time"


def slept_s(seconds: int) -> float:
    """Suspend the machine to RAM. By how much the boot clock has then gained on the monotonic one."""
    awake_ns = boot_ns() - time.monotonic_ns()
    subprocess.run(["rtcwake", "--mode", "mem", "--seconds", str(seconds)], check=True)
    return (boot_ns() - time.monotonic_ns() - awake_ns) / 1e9
