"""Looks at the clocks every half second, and at once when the wall clock was set."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agent.daemon.licensing.time import LicenseTime
from agent.daemon.policy_sync.keeper import PolicyKeeper, same_deadlines
from agent.daemon.reporting.agent_reports import AgentReports
from agent.license.clock import LicenseClock
from agent.model import HostFacts
from agent.observe.hostfacts import with_clock
from agent.state_files import State
from agent.system.clock_set import ClockSet


@dataclass(slots=True, eq=False)
class ClockWatch:
    """Has the tables compiled when a deadline has moved, stores license time, and reports when it is off."""

    license_time: LicenseTime
    state: State
    keeper: PolicyKeeper
    reports: AgentReports
    wake_host: asyncio.Event
    """Set to have the host looked at, and the tables compiled, now."""
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the wall clock was set."""
    clock_set: ClockSet = field(default_factory=ClockSet)
    _is_off: bool = False
    _is_rolled_back: bool = False
    _asked: HostFacts | None = None
    """Facts with the last clock for which the host was asked to be looked at."""

    def start(self) -> None:
        """Report stored license time that could not be read, and license time that is off from the start.
        Watch for a wall clock that is set."""
        if self.license_time.damage:
            self.reports.license_time_damaged(self.license_time.damage)
        self._report(self.license_time.now)
        descriptor = self.clock_set.fileno()
        if descriptor is not None:
            asyncio.get_running_loop().add_reader(descriptor, self._on_set)

    def _on_set(self) -> None:
        if self.clock_set.was_set():
            self.wake.set()

    async def follow(self) -> None:
        """Look at the clocks once."""
        clock = self.license_time.look()
        self._follow_deadlines(clock)
        self._report(clock)
        if self.license_time.has_moved:
            await self.store()

    def _report(self, clock: LicenseClock) -> None:
        if clock.is_off is not self._is_off:
            self._is_off = clock.is_off
            self.reports.license_time(clock)

    def _follow_deadlines(self, clock: LicenseClock) -> None:
        """Ask once for each move. If compiling fails, the periodic look at the host tries again."""
        if clock.strict_rollback is not self._is_rolled_back:
            self._is_rolled_back = clock.strict_rollback
            self.wake_host.set()  # strict documents are judged anew
        compiled = self.keeper.facts
        if compiled is None:
            return
        now = with_clock(compiled, clock)
        if not same_deadlines(now, compiled) and not (self._asked and same_deadlines(now, self._asked)):
            self._asked = now
            self.wake_host.set()

    async def store(self) -> None:
        await asyncio.to_thread(self.license_time.store, self.state)
