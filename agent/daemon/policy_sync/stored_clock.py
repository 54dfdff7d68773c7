"""The newest time that was seen, stored for the next daemon: a clock that is set back must not prolong a
license."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.state_files import State
from agent.observe.clock import DeadlineClock


@dataclass(frozen=True, slots=True)
class StoredClock:
    clock: DeadlineClock
    state: State

    def store(self) -> None:
        self.state.store_time(self.clock.newest_ns)
