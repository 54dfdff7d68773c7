"""Outlet of events: the log of this run, and lines for people."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.reporting.console import Console
from agent.export.event_log import EventLog
from agent.export.events import Event, now_text


@dataclass(frozen=True, slots=True)
class Outlet:
    log: EventLog
    console: Console

    def report(self, kind: str, event: Event) -> None:
        """Emit an event of this kind, with the time of now."""
        self.write({"type": kind, "time": now_text(), **event})

    def write(self, event: Event) -> None:
        """Emit an event that has its type and time."""
        self.log.write(event)
        if event["type"] != "use":
            self.console.event(event)
