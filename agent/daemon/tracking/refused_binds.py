"""Who tries again and again to take a port of others: of each, what is to be reported once a minute."""

from __future__ import annotations

import time

from agent.model import Process, Protocol

REPORTED_EACH_S = 60.0
"""A service may retry ten times a second."""
REMEMBERED = 1024

_Key = tuple[str, int | None, int, Protocol, int]


class RefusedBinds:
    def __init__(self) -> None:
        self._met: dict[_Key, tuple[float, int]] = {}
        """By (executable, uid, cgroup, protocol, port): when it was reported, and how many came since."""

    def met(self, process: Process, protocol: Protocol, port: int) -> int:
        """How many attempts to report now, this one among them; 0: it is counted for the next time."""
        key = (process.exe, process.uid, process.cgroup_id, protocol, port)
        since_s, attempts = self._met.get(key, (-REPORTED_EACH_S, 0))
        if time.monotonic() - since_s < REPORTED_EACH_S:
            self._met[key] = (since_s, attempts + 1)
            return 0
        if len(self._met) >= REMEMBERED:
            self._met.clear()
        self._met[key] = (time.monotonic(), 0)
        return attempts + 1
