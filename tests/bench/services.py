"""What a host with thousands of services, and as many listeners, costs: a scrape, memory, idle time."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import statistics
import time
from collections.abc import Iterator
from pathlib import Path

from tests.bench.daemon import cpu_s, rss_mb
from tests.bench.policies import FIRST_PORT, policy_of_services
from tests.fixtures import namespaces, processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

WATCHED_S = 30
SCRAPES = 20
AS_PROMETHEUS = {"Accept": "application/openmetrics-text;version=1.0.0", "Accept-Encoding": "gzip"}
LISTEN = """
import resource, signal, socket, sys
first, count = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (count + 50,) * 2)
held = [socket.create_server(("127.0.0.1", first + number)) for number in range(count)]
print("listening", flush=True)
signal.pause()
"""


def measure_services(lab: Lab, *, services: int = 4_000, listeners: int = 3_000) -> dict[str, float]:
    """All services are at this host. The listeners, of one process, serve the first of them."""
    with lab.agent(policy_of_services(services)) as agent:
        agent.metrics()
        bytes_, scrape_cpu_s, scrape_s = _scrape(lab, agent)
        idle = _cpu_percent(agent)
        with _listening(lab, agent, listeners):
            served = _cpu_percent(agent)
            agent.metrics()
            memory_mb, pss_mb_ = rss_mb(agent.pid), pss_mb(agent.pid)
    return {
        f"scrape_{services}_services_mb": round(bytes_ / 1e6, 2),
        f"scrape_{services}_services_cpu_s": round(scrape_cpu_s, 3),
        f"scrape_{services}_services_s": round(scrape_s, 3),
        f"cpu_percent_{services}_services": round(idle, 2),
        f"cpu_percent_{listeners}_listeners": round(served, 2),
        f"rss_mb_{services}_services": round(memory_mb, 1),
        f"pss_mb_{services}_services": round(pss_mb_, 1),
    }


def pss_mb(pid: int) -> float:
    """Resident memory in 10^6 bytes; of a page that several processes share, its part."""
    fields = dict(line.split(":") for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:])
    return int(fields["Pss"].split()[0]) * 1024 / 1e6


def _scrape(lab: Lab, agent: RunningAgent) -> tuple[int, float, float]:
    """(bytes, processor time, time) of one scrape."""
    address, _, port = agent.status()["listen"].rpartition(":")
    sizes, taken = [], []
    before_s = cpu_s(agent.pid)
    for _ in range(SCRAPES):
        started = time.monotonic()
        with namespaces.entered(lab.host):
            scraping = http.client.HTTPConnection(address, int(port), timeout=60)
            scraping.connect()
        with contextlib.closing(scraping):
            scraping.request("GET", "/metrics", headers=AS_PROMETHEUS)
            body = scraping.getresponse().read()
        taken.append(time.monotonic() - started)
        sizes.append(len(gzip.decompress(body)))
    return sizes[-1], (cpu_s(agent.pid) - before_s) / SCRAPES, statistics.median(taken)


def _cpu_percent(agent: RunningAgent) -> float:
    started, before_s = time.monotonic(), cpu_s(agent.pid)
    time.sleep(WATCHED_S)
    return 100 * (cpu_s(agent.pid) - before_s) / (time.monotonic() - started)


@contextlib.contextmanager
def _listening(lab: Lab, agent: RunningAgent, count: int) -> Iterator[None]:
    argv = [processes.PYTHON, "-ISc", LISTEN, str(FIRST_PORT), str(count)]
    process = lab.run(lab.host, argv)
    try:
        wait_for(lambda: _served(agent) == count, "all listeners are known", timeout_s=120)
        yield
    finally:
        processes.end(process)


def _served(agent: RunningAgent) -> int:
    return sum(one["states"] == ["declared"] for one in agent.listeners())
