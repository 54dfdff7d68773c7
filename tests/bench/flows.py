"""What a host with very many open flows costs: looks and sweeps, a restart, a list of all flows."""

from __future__ import annotations

import json
import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.daemon.tracking.reconcile import SWEPT_EACH
from tests.bench.daemon import cpu_s, rss_mb
from tests.bench.policies import one_grant
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.waiting import wait_for

PORTS = range(7492, 7496)
LOOK_S = 1
SWEEPS = 4


def measure_flows(lab: Lab, *, flows: int = 50_000) -> dict[str, float]:
    """With so many idle protected flows. A sweep's time is what they cost in as long as there is between two
    sweeps, whatever else the daemon does for them then."""
    policy = one_grant(port=f"{PORTS[0]}-{PORTS[-1]}", consumer=lab.executable("bench/flows"))
    with lab.agent(policy, {"intervals": {"reconcile": LOOK_S}}) as agent:
        without_s = _cpu_of_sweeps_s(agent)
        with _open_flows(lab, flows):
            sweep_s = _cpu_of_sweeps_s(agent) - without_s
            restart_s, restart_cpu_s = _restart(agent)
            listing = _listing(lab, agent, flows)
    return {
        f"sweep_{flows}_flows_cpu_s": round(sweep_s, 3),
        f"restart_{flows}_flows_s": round(restart_s, 3),
        f"restart_{flows}_flows_cpu_s": round(restart_cpu_s, 3),
        f"list_{flows}_flows_s": round(listing.took_s, 3),
        f"list_{flows}_flows_cpu_s": round(listing.cpu_s, 3),
        f"list_{flows}_flows_daemon_mb": round(listing.daemon_mb, 1),
    }


@contextmanager
def _open_flows(lab: Lab, flows: int) -> Iterator[None]:
    """Between several pairs of processes, because a process may have 20,000 files at most."""
    options = ["--connections", str(flows // len(PORTS)), "--keep"]
    program = lab.executable("bench/flows")
    processes = [lab.serve(lab.host, "127.0.0.1", port) for port in PORTS]
    try:
        for port in PORTS:
            client = lab.run(lab.host, [program, "127.0.0.1", str(port), *options])
            processes.append(client)
            if _line_of(client)["errors"]:
                raise RuntimeError("not every connection was made")
        yield
    finally:
        for process in processes:
            process.kill()


def _line_of(client: subprocess.Popen[str]) -> dict[str, Any]:
    assert client.stdout is not None
    return dict(json.loads(client.stdout.readline()))


def _cpu_of_sweeps_s(agent: RunningAgent) -> float:
    before_s = cpu_s(agent.pid)
    time.sleep(SWEEPS * SWEPT_EACH * LOOK_S)
    return (cpu_s(agent.pid) - before_s) / SWEEPS


def _restart(agent: RunningAgent) -> tuple[float, float]:
    """(seconds, processor time) from the start until the agent is ready. Its event says when: to ask for its
    status again and again would cost more than the start."""
    agent.terminate()
    starts = len(agent.events("started"))
    started = time.monotonic()
    agent.launch()
    wait_for(lambda: len(agent.events("started")) > starts, "the agent is ready", timeout_s=120)
    return time.monotonic() - started, cpu_s(agent.pid)


@dataclass(frozen=True, slots=True)
class _Listing:
    took_s: float
    cpu_s: float
    """Of the daemon and of `licet flows`."""
    daemon_mb: float
    """By how much the daemon's memory grew at most."""


def _listing(lab: Lab, agent: RunningAgent, flows: int) -> _Listing:
    """`licet flows`, written to a file."""
    output = lab.directory / "flows.txt"
    before_mb = rss_mb(agent.pid)
    Path(f"/proc/{agent.pid}/clear_refs").write_text("5")  # the peak so far is forgotten (proc(5))
    before_s, own_before_s, started = cpu_s(agent.pid), _children_cpu_s(), time.monotonic()
    with output.open("w") as file:
        command = [LICET, "flows", "--config", agent.files.config]
        process = lab.run(lab.host, command, cgroup=None, stdout=file)
        if process.wait(120):
            raise RuntimeError(f"licet flows ended with {process.returncode}")
    took_s = time.monotonic() - started
    if (lines := output.read_text().count("\n")) != flows + 1:
        raise RuntimeError(f"licet flows printed {lines} lines of {flows} flows")
    return _Listing(
        took_s,
        cpu_s(agent.pid) - before_s + _children_cpu_s() - own_before_s,
        rss_mb(agent.pid, "VmHWM") - before_mb,
    )


def _children_cpu_s() -> float:
    """Processor time of all children that have ended."""
    times = os.times()
    return times.children_user + times.children_system
