"""Processes of flows, completed once each while flows are listed: thousands of flows have a few processes."""

from __future__ import annotations

from agent.daemon.tracking.attribution import Attributor
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import ProcessesAsStored
from agent.model import Process

KNOWN_PROCESSES = 1024
"""Limit for processes remembered."""
_Acceptor = tuple[int, int, int]
"""pid, start and executable of an accepting process."""


class CompletedProcesses:
    def __init__(self, names: Names, attributor: Attributor) -> None:
        self._stored = ProcessesAsStored(names)
        self._attributor = attributor
        self._known: dict[bytes | _Acceptor, Process | None] = {}

    def process(self, identity: bytes) -> Process | None:
        if identity not in self._known:
            self._remember(identity, self._stored.process(identity))
        return self._known[identity]

    def acceptor(self, pid: int, start_boot_ns: int, exe: int) -> Process | None:
        key = pid, start_boot_ns, exe
        if key not in self._known:
            self._remember(key, self._stored.acceptor(*key))
        return self._known[key]

    def _remember(self, key: bytes | _Acceptor, process: Process | None) -> None:
        if len(self._known) >= KNOWN_PROCESSES:
            self._known.clear()
        self._known[key] = self._attributor.complete(process) if process else None
