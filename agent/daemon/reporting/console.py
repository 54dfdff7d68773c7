"""Lines for the person who started the daemon."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from typing import Any

from agent.daemon.tracking.listeners import serving_process
from agent.export.agent_port import JudgedListener
from agent.export.events import Event, process_fields
from agent.export.human import human_line, place, process_name
from agent.export.sink import DescriptorSink
from agent.export.status import Status
from agent.model import show_address
from agent.wording import counted


class Console:
    def __init__(self, quiet: bool) -> None:
        """`quiet`: print nothing."""
        self._people = None if quiet else DescriptorSink(sys.stderr.fileno())

    def event(self, event: Event) -> None:
        if self._people is not None:  # making a line takes as long as all other work for an event
            self._say(human_line(event))

    def started(self, status: Status, listeners: Sequence[JudgedListener]) -> None:
        gates = ", ".join(gate["gate"] for gate in status["gates"] if gate["attached_to"])
        refusing = f"refusing: {gates}" if gates else "nothing is refused"
        self._say(f"licet {status['version']} watches {status['scope']['cgroup']} ({refusing})")
        width = max(len(hook["hook"]) for hook in status["hooks"])
        for hook in status["hooks"]:
            self._say(f"  {hook['hook']:{width}} {hook['rung']}")
        if any(hook["rung"] == "none" for hook in status["hooks"]):
            self._say("  (what this kernel lacks, and what follows: licet status, licet doctor)")
        self._listeners(listeners)
        self._say(f"metrics: http://{status['listen']}/metrics")

    def _listeners(self, rows: Sequence[JudgedListener]) -> None:
        self._say(f"{counted(len(rows), 'listener')}:")
        for one in rows:
            owner = serving_process(one.listener)
            name = process_name(process_fields(owner)) if owner else "?"
            where = place(show_address(one.listener.address), one.listener.port)
            # a declared port is judged by the policy
            looks_internal = one.catalog and not one.service and one.bind in ("any", "public")
            mark = "  looks internal and listens wide" if looks_internal else ""
            guess = f"looks like {one.catalog.partition(':')[0]}" if one.catalog else ""
            what = f"{one.service or guess}{mark}"
            line = f"  {one.listener.protocol.name:3} {where:28} {one.bind:9} {name:24} {what}"
            self._say(line.rstrip())

    def edges(self, edges: Sequence[dict[str, Any]]) -> None:
        """Print the busiest connections to ports that no service declares."""
        if edges:
            self._say("busiest unprotected connections so far:")
        for edge in edges:
            if edge["direction"] == "outbound":
                line = f"{edge['exe'] or '?'} → {edge['peer']}:{edge['port']}"
            else:
                line = f"{edge['peer']} → port {edge['port']}"
            self._say(f"  {edge['connections']:8,} {edge['direction']:8} {line}")

    def stopped(self) -> None:
        self._say("stopped; programs and counters stay in the kernel (licet unload removes them)")

    def _say(self, text: str) -> None:
        """Print a line. A terminal that is gone, or does not take more, must not stop the agent."""
        if self._people is not None:
            with contextlib.suppress(OSError):
                self._people.write(text)
