"""An expired license stays expired, whoever sets the clock back, once it has been synchronised."""

from __future__ import annotations

import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

SOURCE = Path(__file__).parents[1] / "fixtures" / "shifted_clock.c"
PORT, HOUR_S = 7320, 3600
POLICY = """\
version: 1
services: {{db: {{product: acme, ports: [{{port: 7320, class: internal}}]}}}}
licenses:
  - id: acme
    product: acme
    expires_at: {ended}
    entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]
enforcement: {{default: enforce}}
"""


class Clock:
    """The agent's wall clock, as preloaded."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / "clock"
        library = folder / "shifted_clock.so"
        subprocess.run(["cc", "-shared", "-fPIC", "-o", library, SOURCE], check=True)
        self.env = {"LD_PRELOAD": str(library), "SHIFTED_CLOCK": str(self._file)}
        self.set(0, synchronised=False)

    def set(self, seconds: int, *, synchronised: bool) -> None:
        fresh = self._file.with_suffix(".new")
        fresh.write_text(f"{seconds} {int(synchronised)}\n")
        fresh.replace(self._file)


def is_licensed(lab: Lab) -> bool:
    return lab.load(lab.host, "127.0.0.1", PORT)["errors"] == {}


def is_valid(agent: RunningAgent) -> float:
    return agent.total("licet_license_valid", license="acme")


def test_no_deadline_moves_later_once_the_clock_was_synchronised(lab: Lab) -> None:
    lab.serve(lab.host, "127.0.0.1", PORT)
    clock = Clock(lab.directory)
    ended = datetime.fromtimestamp(time.time() - 60, UTC).isoformat()
    with lab.agent(POLICY.format(ended=ended), {"intervals": {"reconcile": 0.5}}, start=False) as agent:
        agent.start(env=clock.env)
        wait_for(lambda: not is_licensed(lab), "it has ended, as far as anybody knows")
        clock.set(-HOUR_S, synchronised=False)
        wait_for(lambda: is_licensed(lab), "the clock that was wrong at boot is corrected")
        assert is_valid(agent) == 1
        agent.terminate()
        clock.set(0, synchronised=True)
        agent.start(env=clock.env)  # its first look is at a clock that is synchronised
        assert not is_licensed(lab)
        clock.set(-HOUR_S, synchronised=False)  # as settimeofday(2) says itself
        wait_for(lambda: agent.total("licet_trouble", cause="clock") == 1, "it says that it was set back")
        assert not is_licensed(lab)
        assert is_valid(agent) == 0
        assert "the wall clock was set back by 3600 s" in agent.licet("status").stdout
        agent.terminate()
        agent.start(env=clock.env)
        assert not is_licensed(lab)
        assert agent.get("/readyz")[0] == 200
        clock.set(0, synchronised=True)
        wait_for(lambda: agent.total("licet_trouble", cause="clock") == 0, "it has caught up")
        assert not is_licensed(lab)
