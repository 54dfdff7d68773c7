"""What a host with many network namespaces costs: processor time, a reload, a start."""

from __future__ import annotations

import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from tests.bench.daemon import cpu_s
from tests.bench.policies import one_grant
from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.names import new_name
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

PORT = 7491
WATCHED_S = 60
"""Twice as long as between two looks for flows that have ended."""


def measure_crowd(
    lab: Lab, *, running: int = 110, starting: int = 300, reloads: int = 20
) -> dict[str, float]:
    """With a listener in each namespace and one open flow. The reload is the slowest: whatever is looked at
    meanwhile."""
    policy = one_grant(port=PORT, consumer=lab.executable("bench/crowd"))
    with crowd(running) as places, lab.agent(policy, _scope(lab, places)) as agent, _flow(lab, agent):
        percent = _cpu_percent(agent)
        slowest = max(_reloads_s(agent, policy, reloads))
    with crowd(starting) as places:
        agent = lab.agent(policy, _scope(lab, places), start=False)
        started = time.monotonic()
        with agent:
            agent.start(timeout_s=60)
            start_s = time.monotonic() - started
    return {
        f"cpu_percent_{running}_namespaces": round(percent, 2),
        f"slowest_reload_{running}_namespaces_s": round(slowest, 3),
        f"start_{starting}_namespaces_s": round(start_s, 3),
    }


@contextmanager
def crowd(count: int) -> Iterator[list[Namespace]]:
    """So many namespaces, with somebody who listens in each."""
    places = [Namespace(f"{new_name()}-{number}", "", "") for number in range(count)]
    try:
        _all("add", places)
        with ExitStack() as opened:
            for place in places:
                with namespaces.entered(place):
                    opened.enter_context(socket.create_server(("127.0.0.1", 80)))
            yield places
    finally:
        _all("delete", places)


def _all(what: str, places: list[Namespace]) -> None:
    lines = "\n".join(f"netns {what} {each.name}" for each in places)
    subprocess.run(["ip", "-force", "-batch", "-"], input=lines, text=True, check=True)


def _scope(lab: Lab, places: list[Namespace]) -> dict[str, dict[str, list[str]]]:
    return {"scope": {"namespaces": [str(each.path) for each in (lab.host, *places)]}}


@contextmanager
def _flow(lab: Lab, agent: RunningAgent) -> Iterator[None]:
    server = lab.serve(lab.host, "127.0.0.1", PORT)
    program = lab.executable("bench/crowd")
    client = lab.run(lab.host, [program, "127.0.0.1", str(PORT), "--connections", "1", "--hold", "600000"])
    try:
        wait_for(agent.flows, "the flow is open")
        yield
    finally:
        for process in (client, server):
            process.kill()


def _cpu_percent(agent: RunningAgent) -> float:
    started, before_s = time.monotonic(), cpu_s(agent.pid)
    time.sleep(WATCHED_S)
    return 100 * (cpu_s(agent.pid) - before_s) / (time.monotonic() - started)


def _reloads_s(agent: RunningAgent, policy: str, count: int) -> list[float]:
    taken = []
    for number in range(count):
        time.sleep(0.35)  # another moment between two looks each time
        started = time.monotonic()
        agent.set_policy(policy + "\n" * (number % 2 + 1), timeout_s=60)
        taken.append(time.monotonic() - started)
    return taken
