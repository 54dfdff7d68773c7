"""What this process uses of memory, processors and descriptors (proc(5))."""

from __future__ import annotations

import os
import resource
import time
from functools import cache
from pathlib import Path

from agent.export.agent_port import ProcessUse

SELF = Path("/proc/self")


def own_process() -> ProcessUse:
    pages, resident = (int(text) for text in (SELF / "statm").read_text().split()[:2])
    used = resource.getrusage(resource.RUSAGE_SELF)
    return ProcessUse(
        cpu_s=round(used.ru_utime + used.ru_stime, 6),
        virtual_bytes=pages * resource.getpagesize(),
        resident_bytes=resident * resource.getpagesize(),
        started_unix_s=_started_unix_s(),
        descriptors=len(os.listdir(SELF / "fd")),
        most_descriptors=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
    )


@cache
def _started_unix_s() -> float:
    """Asked once: by a wall clock that is set, the process would start anew."""
    ticks = int((SELF / "stat").read_text().rpartition(")")[2].split()[19])
    age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    return round(time.time() - age_s, 2)
