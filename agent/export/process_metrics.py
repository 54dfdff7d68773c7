"""Metrics of the agent's own process, by the names that Prometheus' client libraries give them."""

from __future__ import annotations

from collections.abc import Iterator

from agent.export.agent_port import ProcessUse
from agent.export.families import Family, counter, gauge


def process(use: ProcessUse) -> Iterator[Family]:
    cpu = counter("process_cpu_seconds", "Total user and system CPU time spent in seconds.")
    cpu.add("", use.cpu_s)
    yield cpu
    gauges = {
        "process_virtual_memory_bytes": ("Virtual memory size in bytes.", use.virtual_bytes),
        "process_resident_memory_bytes": ("Resident memory size in bytes.", use.resident_bytes),
        "process_start_time_seconds": (
            "Start time of the process since unix epoch in seconds.",
            use.started_unix_s,
        ),
        "process_open_fds": ("Number of open file descriptors.", use.descriptors),
        "process_max_fds": ("Maximum number of open file descriptors.", use.most_descriptors),
    }
    for name, (text, value) in gauges.items():
        family = gauge(name, text)
        family.add("", value)
        yield family
