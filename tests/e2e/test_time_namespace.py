"""In a time namespace that shifts the boot clock, deadlines would be wrong: nothing starts there."""

from __future__ import annotations

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET

SHIFTED = ("unshare", "--time", "--boottime", "86400")
UNSHIFTED = ("unshare", "--time", "--monotonic", "5")


@pytest.mark.parametrize("command", ["run", "load"])
def test_a_shifted_boot_clock_is_refused_with_what_to_do(lab: Lab, command: str) -> None:
    agent = lab.agent("version: 1\n", start=False)
    begun = [*SHIFTED, LICET, command, "--config", agent.files.config]
    done = lab.call(lab.host, begun, cgroup=None, check=False)
    assert done.returncode == 1
    (line,) = done.stderr.splitlines()
    assert line.startswith(
        "licet: /proc/self/timens_offsets: the boot clock is shifted by 86400 s in this time"
    )
    assert "start licet in the host's time namespace (`nsenter --target 1 --time licet …`" in line
    assert not agent.files.pins.exists()


def test_a_time_namespace_without_a_shift_is_fine(lab: Lab) -> None:
    with lab.agent("version: 1\n", start=False) as agent:
        agent.start(command=[*UNSHIFTED, LICET, "run", "--config", agent.files.config])
        assert agent.get("/readyz")[0] == 200


def test_doctor_says_so(lab: Lab) -> None:
    done = lab.call(lab.host, [*SHIFTED, LICET, "doctor"], cgroup=None, check=False)
    assert done.returncode == 1
    assert "missing: boot clock" in done.stderr
