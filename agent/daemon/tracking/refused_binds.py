"""Processes that repeatedly try to bind a port of another owner: for each, the attempts to report once a
minute."""

from __future__ import annotations

import time

from agent.model import Process, Protocol

REPORTED_EACH_S = 60.0
"""Time between two reports. A service may retry ten times a second."""
REMEMBERED = 1024

_Key = tuple[str, int | None, int, Protocol, int]


class RefusedBinds:
    def __init__(self) -> None:
        self._met: dict[_Key, tuple[float, int]] = {}
        """By (executable, uid, cgroup, protocol, port): time of the last report, and attempts since."""

    def met(self, process: Process, protocol: Protocol, port: int) -> int:
        """Number of attempts to report now, including this one; 0 if it is counted for the next report."""
        key = (process.exe, process.uid, process.cgroup_id, protocol, port)
        since_s, attempts = self._met.get(key, (-REPORTED_EACH_S, 0))
        if time.monotonic() - since_s < REPORTED_EACH_S:
            self._met[key] = (since_s, attempts + 1)
            return 0
        if len(self._met) >= REMEMBERED:
            self._met.clear()
        self._met[key] = (time.monotonic(), 0)
        return attempts + 1
