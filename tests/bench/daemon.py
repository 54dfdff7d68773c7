"""What the daemon itself takes: memory, processor time under load, time to start and to reload."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.conditions import Condition, Traffic
from tests.bench.spread import Spread, spread
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import KEPT
from tests.fixtures.running_agent import RunningAgent

RATE = 10_000
LOAD_S = 10
CLIENTS = 8
TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def rss_mb(pid: int, field: str = "VmRSS") -> float:
    """Resident memory in 10^6 bytes, shared pages included. `field` VmHWM: the most that it was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"process {pid} has no {field}")


def cpu_s(pid: int) -> float:
    """User and system time of all threads so far, in ticks of 10 ms (proc(5), fields 14 and 15)."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S


def cpu_percent_under_load(agent: RunningAgent, traffic: Traffic, condition: Condition) -> dict[str, float]:
    """Percent of one core while connections come at 10,000 a second, and the rate really reached."""
    started, before_s = time.monotonic(), cpu_s(agent.pid)
    result = traffic.run(condition, RATE * LOAD_S, CLIENTS, ["--rate", str(RATE)])
    agent.metrics()  # a scrape belongs to it, too
    spent_s = cpu_s(agent.pid) - before_s
    return {
        "percent": round(100 * spent_s / (time.monotonic() - started), 2),
        "per_second": result["per_second"],
    }


def start_to_protected_s(lab: Lab, policy: str, *, rounds: int, compile_: bool) -> Spread:
    """From `licet run` on a host with nothing loaded until programs are attached and the policy is in
    force: interpreter and verifier included, and the compiler, unless what it made is kept."""
    taken = []
    for _ in range(rounds):
        if compile_:
            shutil.rmtree(KEPT, ignore_errors=True)
        taken.append(_timed(lambda: lab.agent(policy), lambda agent: agent.stop()))
    return spread(taken)


def _timed(do: Callable[[], RunningAgent], undo: Callable[[RunningAgent], None]) -> float:
    started = time.monotonic()
    made = do()
    taken = time.monotonic() - started
    undo(made)
    return taken


def reload_s(agent: RunningAgent, policies: tuple[str, str], *, rounds: int) -> Spread:
    """From writing the file until /metrics says that it is in force; the policies take turns."""
    taken = []
    for round_ in range(rounds):
        started = time.monotonic()
        agent.set_policy(policies[round_ % 2], timeout_s=60)
        taken.append(time.monotonic() - started)
    return spread(taken)
