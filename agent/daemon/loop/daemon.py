"""The loop: its events, its periodic work, its start and its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any

from agent.config import Settings
from agent.daemon.enforcement.confined_rights import Rights
from agent.daemon.enforcement.failsafe import Failsafe
from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.enforcement.gates import Gates
from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.loop.clock_watch import ClockWatch
from agent.daemon.loop.host_watch import HostWatch
from agent.daemon.loop.policy_reload import PolicyReload
from agent.daemon.loop.ring_events import RingEvents
from agent.daemon.loop.schedule import Background, every, in_turns
from agent.daemon.policy_sync.home_watch import HomeWatch
from agent.daemon.policy_sync.namespace_finder import NamespaceFinder
from agent.daemon.reporting.agent_reports import AgentReports
from agent.daemon.reporting.license_watch import LicenseWatch
from agent.daemon.reporting.passes import Passes
from agent.daemon.reporting.reporter import Reporter
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.reporting.view import View
from agent.daemon.tracking.datagram_rows import DatagramRows
from agent.errors import LicetError
from agent.export.server import Servers
from agent.export.service_manager import ServiceManager
from agent.kernel.upgrade import earlier_events
from agent.observe.route_watch import AddressWatch
from agent.system.boottime import boot_ns

log = logging.getLogger(__name__)
CLOCK_S = 0.5
STORE_TIME_S = 60.0
STORE_USES_S = 60.0
EDGES_AFTER_S = 5.0
EDGES_SHOWN = 10
GATES_S = 0.5
CUT_S = 0.5
LICENSES_S = 0.5
DATAGRAMS_S = 30.0
MODES_S = 0.5
TROUBLES_S = 2.0
CONTAINERS_S = 0.2
LINKS_S = 1.0


@dataclass(slots=True, eq=False)
class Daemon:
    """Runs finished parts (wiring/). Each part has its work; the loop has the times."""

    settings: Settings
    manager: ServiceManager
    ring: RingEvents
    reload: PolicyReload
    host: HostWatch
    addresses: AddressWatch
    finder: NamespaceFinder
    homes: HomeWatch
    failsafe: Failsafe
    gates: Gates
    cutter: FlowCutter
    modes: ModeSwitch
    rights: Rights
    licenses: LicenseWatch
    datagram_rows: DatagramRows
    clock: ClockWatch
    troubles: Troubles
    passes: Passes
    reporter: Reporter
    reports: AgentReports
    view: View
    background: Background
    generation: int
    """Generation of the policy that an earlier run left in the kernel; 0 if there is none."""
    statistics: int | None
    """A descriptor that keeps the kernel measuring the programs' run time while it is open."""
    _stop: asyncio.Event = field(default_factory=asyncio.Event)

    async def serve(self) -> None:
        """Run until SIGINT or SIGTERM. Raises LicetError if there is no policy to go on with."""
        # before any UDP program is loaded: from here on, each row that a full table evicts is counted
        await asyncio.to_thread(self.datagram_rows.sweep, boot_ns())
        await self.reload.first(self.generation)
        self.failsafe.tell()
        await self.reload.settle_first()
        self._wait_for_signals()
        self.reload.follow_files()
        loop = asyncio.get_running_loop()
        loop.add_reader(self.addresses.fileno(), self._on_address)
        self.finder.start()
        async with contextlib.AsyncExitStack() as stack:
            servers = await stack.enter_async_context(self._servers())
            self.view.status_page.public_address = servers.public_address
            self.failsafe.add(servers.ports)
            await self.host.look()
            # report events that wait in the ring only now, when their owners are known
            self.ring.take(earlier_events.taken(earlier_events.kept_in(self.settings.paths.run)))
            loop.add_reader(self.ring.fileno(), self.ring.drain)
            self.clock.start()
            await self.clock.store()
            await self._see_to_troubles()
            self.troubles.policy_is_in_force = True
            self._tell_of_start()
            self.background.start(self._warn_of_lost_rights())
            self.manager.ready(self.reload.in_force())
            await self._run_until_stopped()
            self.manager.stopping()
        await self._summarise()
        await self.clock.store()
        await asyncio.to_thread(self.licenses.store)
        await self.reload.store_uses()
        self.reports.stopped()

    def _wait_for_signals(self) -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)

    def _servers(self) -> Servers:
        settings = self.settings
        return Servers(
            self.view, settings.listen, settings.control_socket, settings.health_listen, settings.hosts
        )

    def _tell_of_start(self) -> None:
        status = self.view.status()
        self.reports.started(status["version"])
        self.reports.outlet.console.started(status, self.view.listeners())

    async def _run_until_stopped(self) -> None:
        tasks = [asyncio.create_task(work) for work in self._work()]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _work(self) -> list[Coroutine[Any, Any, None]]:
        intervals = self.settings.intervals
        return [
            self._every(intervals.reconcile, self.host.look, self.host.wake),
            self._every(intervals.summary, self._summarise),
            self._every(CLOCK_S, self.clock.follow, self.clock.wake),
            self._every(STORE_TIME_S, self.clock.store),
            self._every(STORE_USES_S, self.reload.store_uses),
            self._every(GATES_S, self.gates.follow),
            self._every(GATES_S, self._follow_tracepoints),
            self._every(CUT_S, self._cut),
            self._every(LICENSES_S, self._follow_licenses),
            self._every(DATAGRAMS_S, self._sweep_datagrams),
            self._every(MODES_S, self.modes.follow),
            self._every(CONTAINERS_S, self.host.follow_containers),
            self._every(LINKS_S, self.host.follow_links),
            self._every(TROUBLES_S, self._see_to_troubles),
            self._every(TROUBLES_S, self._say_troubles),
            self._say_edges(),
            self._stand_by(),
            self._every(self.manager.alive_every_s, self._alive),
        ]

    def _every(
        self, seconds: float, work: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None
    ) -> Coroutine[Any, Any, None]:
        return every(seconds, work, self.passes, wake)

    def _on_hangup(self) -> None:
        self.reports.outlet.log.reopen()
        self.background.start(self.reload.reload_quietly())

    def _on_address(self) -> None:
        if self.addresses.changed():
            self.host.wake.set()

    async def _warn_of_lost_rights(self) -> None:
        for finding in await asyncio.to_thread(self.rights.lost):
            log.warning("%s", finding)

    async def _cut(self) -> None:
        if self.gates.attached:
            self.reporter.cut(await asyncio.to_thread(self.cutter.cut_due))

    async def _follow_licenses(self) -> None:
        moment, news = self.licenses.news()
        for one in news:
            self.reports.license(one, moment)
        await asyncio.to_thread(self.licenses.store)

    async def _follow_tracepoints(self) -> None:
        self.reload.follow_execs()
        self.homes.follow()

    async def _stand_by(self) -> None:
        try:
            await self.gates.stand_by()
        except LicetError as error:
            log.error("the gates cannot be loaded; licet can only observe here: %s", error)

    async def _see_to_troubles(self) -> None:
        await self.reload.follow_up()
        await asyncio.to_thread(self.troubles.look)
        self.troubles.log_changes()

    async def _say_troubles(self) -> None:
        """Report troubles, also while a look for them hangs."""
        self.troubles.log_changes()

    async def _sweep_datagrams(self) -> None:
        if self.gates.datagrams.attached:
            await asyncio.to_thread(self.datagram_rows.sweep, boot_ns())

    async def _summarise(self) -> None:
        await in_turns(self.ring.until_empty())
        await in_turns(self.ring.summaries())

    async def _say_edges(self) -> None:
        """Print edges once there has been time for some traffic."""
        await asyncio.sleep(EDGES_AFTER_S)
        self.reports.outlet.console.edges(self.view.undeclared_edges(EDGES_SHOWN))

    async def _alive(self) -> None:
        self.manager.alive()
