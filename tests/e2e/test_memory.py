"""What an agent takes of memory: within what its unit allows, and bounded whoever asks."""

from __future__ import annotations

import os
import re
import select
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.e2e.test_crowding import PORT as METRICS_PORT
from tests.e2e.test_crowding import SCRAPE, crowd
from tests.fixtures.fresh_copies import each_once
from tests.fixtures.lab import ROOT, Lab
from tests.fixtures.memory_limit import Limited, limited_memory, resident
from tests.fixtures.running_agent import LICET, RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import wait_for

PORT, MIB = 7651, 1 << 20
UNIT = (ROOT / "packaging" / "host" / "licet.service").read_text()
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7651, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: enforce}
"""
EVERYTHING = {"scope": {"interfaces": ["lo", "to-*"]}, "acceptor": "always", "edges": "always"}
COPIES = 200


def allowed_by_unit(setting: str) -> int:
    (value,) = re.findall(rf"^{setting}=(\d+)G?$", UNIT, re.MULTILINE)
    return int(value) << (30 if f"{setting}={value}G" in UNIT else 0)


@pytest.fixture(scope="module")
def limited() -> Iterator[Limited]:
    with limited_memory() as made:
        made.limit(allowed_by_unit("MemoryMax"))
        yield made


class Most:
    """Of a number, as often as it can be looked at."""

    def __init__(self, limited: Limited) -> None:
        self.threads = 0
        self._limited = limited
        self._over = threading.Event()
        self._looks = threading.Thread(target=self._look)

    def _look(self) -> None:
        while not self._over.wait(0.005):
            self.threads = max(self.threads, self._limited.threads)

    def __enter__(self) -> Most:
        self._looks.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._looks.join()


def start_in(agent: RunningAgent, limited: Limited) -> None:
    run = f"exec {LICET} run --config {agent.files.config}"
    agent.start(command=["sh", "-c", f"{limited.join()} && {run}"], timeout_s=60)


@pytest.fixture(scope="module")
def most(limited: Limited) -> Iterator[Most]:
    with Most(limited) as looking:
        yield looking


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, limited: Limited, most: Most) -> Iterator[RunningAgent]:
    """Compiled by its start, with every gate."""
    programs = shared_lab.directory / "programs"
    programs.mkdir()
    settings = {**EVERYTHING, "paths": {"programs": str(programs)}}
    running = shared_lab.agent(POLICY, settings, start=False)
    start_in(running, limited)
    running.wait_until_it_stands_by()
    yield running
    running.stop()


def test_a_start_that_compiles_takes_less_than_half_of_what_the_unit_allows(
    agent: RunningAgent, limited: Limited, most: Most
) -> None:
    """The other half is for policies at their limits, full tables and counters of many processors."""
    assert limited.most <= allowed_by_unit("MemoryMax") / 2
    assert 0 < most.threads <= allowed_by_unit("TasksMax") / 2
    assert limited.killed == 0


def test_its_threads_have_one_heap(agent: RunningAgent) -> None:
    """glibc would reserve 64 MiB for each, and keep the most that each ever had in use."""
    for _ in range(3):
        agent.status()
        agent.metrics()
    sizes = []
    for line in Path(f"/proc/{agent.pid}/maps").read_text().splitlines():
        ends, access, *_, name = [*line.split(), ""][:7]
        first, last = (int(end, 16) for end in ends.split("-"))
        if access == "---p" and name == "":
            sizes.append(last - first)
    assert max(sizes, default=0) < 32 * MIB


def test_at_the_limit_no_count_is_lost(shared_lab: Lab, agent: RunningAgent, limited: Limited) -> None:
    """Whatever becomes of the daemon there: each consumer is new, and needs a row and an event."""
    lab = shared_lab
    lab.serve(lab.host, "127.0.0.1", PORT)
    folders = {1001: lab.directory / "licensed", 1002: lab.directory / "other"}
    for uid, folder in folders.items():
        folder.mkdir()
        os.chown(folder, uid, uid)
    limited.limit(limited.used)
    runs = [each_once(lab, folder, COPIES, PORT, uid) for uid, folder in folders.items()]
    for run in runs:
        run.communicate(timeout=120)
    assert limited.times_at_limit
    limited.limit(allowed_by_unit("MemoryMax"))
    if not agent.is_running:
        start_in(agent, limited)
    assert connections(agent, "db") == {("loopback", "allowed"): COPIES, ("loopback", "denied"): COPIES}
    assert agent.total("licet_refused_total", service="db", gate="connect") == COPIES


def test_readers_that_take_no_answer_hold_no_memory(lab: Lab) -> None:
    """Of 300 services /metrics has 1.2 MB."""
    services = "".join(
        f"  s{n}: {{product: acme, ports: [{{port: {20_000 + n}, class: internal}}]}}\n" for n in range(300)
    )
    policy = f"version: 1\nservices:\n{services}"
    with lab.agent(policy, {"listen": f"0.0.0.0:{METRICS_PORT}"}) as agent:
        for _ in range(3):
            assert agent.get("/metrics")[0] == 200
        before = resident(agent)
        with crowd(lab.remote, lab.host.v4, 128, SCRAPE) as readers:
            taken = []

            def all_are_answered() -> bool:
                taken.append(resident(agent) - before)
                return len(select.select(readers, [], [], 0)[0]) == len(readers)

            wait_for(all_are_answered, "each has the beginning of its answer, or is closed", timeout_s=30)
            assert agent.get("/metrics")[0] == 200
            assert max(*taken, resident(agent) - before) < 40 * MIB
