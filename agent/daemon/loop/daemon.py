"""The loop: events from the kernel, a look at the host every few seconds, reloads, and the two sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

from agent import abi
from agent.config import Settings
from agent.daemon.enforcement.confined_rights import Rights
from agent.daemon.enforcement.datagram_hooks import Datagrams
from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.enforcement.gates import Gates
from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.enforcement.packet_gate import packet_gate
from agent.daemon.enforcement.preview import Foresight
from agent.daemon.policy_sync.exec_watch import ExecWatch, depends_on_addresses, exec_tracepoint, is_of_use
from agent.daemon.policy_sync.license_watch import LicenseWatch
from agent.daemon.policy_sync.namespace_finder import NamespaceFinder
from agent.daemon.policy_sync.retrying import ReloadRetry
from agent.daemon.policy_sync.tracepoint import Tracepoint
from agent.daemon.reporting.passes import Passes
from agent.daemon.reporting.pins_watch import PinsWatch
from agent.daemon.reporting.reporter import Teller
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.reporting.view import View
from agent.daemon.tracking.datagram_rows import DatagramRows
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.last_hour import LastHour
from agent.daemon.tracking.reconcile import HostFollower
from agent.daemon.tracking.strangers import Strangers
from agent.daemon.tracking.usage import Usage
from agent.daemon.wiring.judging import Judging
from agent.enforce.modes import Overrides
from agent.errors import ConfigError, LicetError
from agent.export.envelope import Envelope, PolicyInForce
from agent.export.event_log import EventLog
from agent.export.events import Event
from agent.export.server import Servers
from agent.export.service_manager import NoManager
from agent.failures import failures_told
from agent.kernel.attach.gates import BIND, CONNECT, RMDIR, CgroupGate, SocketGate
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import Pins
from agent.kernel.tables import ring
from agent.kernel.tables.rows import process_of, with_server
from agent.kernel.uapi import STATS_RUN_TIME
from agent.kernel.upgrade import earlier_events
from agent.model import Protocol, Reason, Target
from agent.observe.executables import running_executables
from agent.observe.policy_watch import PolicyWatch
from agent.observe.route_watch import AddressWatch
from agent.system import libbpf
from agent.system.boottime import boot_ns
from agent.system.bpf_ring import RingReader

log = logging.getLogger(__name__)
STORE_TIME_S = 60.0
STORE_USES_S = 60.0
EDGES_AFTER_S = 5.0
GATES_S = 0.5
CUT_S = 0.5
LICENSES_S = 0.5
DATAGRAMS_S = 30.0
MODES_S = 0.5
TROUBLES_S = 2.0
CONTAINERS_S = 0.2
LINKS_S = 1.0
WAITING = 4096
"""Records that the two rings hold, about."""
TURN_S = 0.02
"""So long the loop does one thing of many before all others have their turn."""
LONG_S = 0.25
RESTS = 4
"""So many times as long as a look took, if that was long."""
CONTAINER_STARTS_S = 10.0
"""So long after its cgroup appeared, a container's name and network are looked for at once; later, with all
the rest."""


class Daemon:
    def __init__(
        self, settings: Settings, manifest: Manifest, cgroup_mount: Path, manager: NoManager, quiet: bool
    ) -> None:
        self._settings = settings
        self._manager = manager
        pins = Pins(settings.paths.pins)
        self._policy_watch = PolicyWatch(settings.paths.policy, settings.paths.policy_dir)
        self._is_watching = False
        self._pins_watch = PinsWatch(pins)
        self._address_watch = AddressWatch()
        self._judging = judging = Judging.by(settings, pins, cgroup_mount)
        self._state, self._maps, self._counters = judging.state, judging.maps, judging.counters
        self._containers, self._names = judging.containers, judging.names
        self._attributor, self._keeper, self._listening = (
            judging.attributor,
            judging.keeper,
            judging.listening,
        )
        reader, namespaces = judging.reader, judging.namespaces
        named = self._keeper.ids.target_named
        self._usage = Usage(self._counters, self._names, self._attributor.complete, named)
        flows = FlowTable(
            self._counters,
            self._names,
            self._attributor.complete,
            named,
            self._listening.owner_of,
            reader.names_are_trusted,
            lambda target: self._switch.enforces(target),
        )
        self._follower = HostFollower(
            self._keeper,
            self._listening,
            flows,
            self._attributor,
            namespaces,
            self._containers,
            settings.intervals.reconcile,
        )
        self._rights = Rights(self._keeper, reader, namespaces, self._usage)
        self._failsafe = frozenset(settings.guard.failsafe_ports)
        self._cutter = FlowCutter(
            keeper=self._keeper,
            flows=flows,
            complete=self._attributor.complete,
            namespaces=namespaces.all,
            enforces=lambda target: self._switch.enforces(target),
            failsafe=self._failsafe,
        )
        self._quiet = quiet
        _warn_of_missing_namespaces(settings)
        envelope = Envelope(os.uname().nodename, self._policy_in_force, settings.events.args)
        self._events = EventLog(_sink(settings, quiet), settings.events.keep, envelope.around)
        self._teller = Teller(
            self._events,
            self._keeper,
            self._listening,
            self._attributor,
            quiet,
            lambda target: self._switch.enforces(target),
        )
        self._retry = ReloadRetry(self._keeper)
        self._passes = Passes()
        self._licenses = LicenseWatch(self._keeper, self._teller.license_changed)
        self._troubles = Troubles(
            {
                "policy": lambda: self._keeper.trouble or self._retry.trouble,
                "policy_watch": lambda: self._policy_watch.problem,
                "state": lambda: self._state.problem or self._overrides.problem,
                "pins": lambda: self._pins_watch.problem,
                "clock": lambda: judging.clock.problem,
                "late": lambda: self._passes.trouble,
                "unanswered": lambda: reader.patience.trouble,
            }
        )
        self._datagram_rows = DatagramRows(self._counters)
        self._view = View(
            settings=settings,
            troubles=self._troubles,
            manifest=manifest,
            pins=pins,
            keeper=self._keeper,
            counters=self._counters,
            names=self._names,
            usage=self._usage,
            flow_table=flows,
            listening=self._listening,
            event_log=self._events,
            datagram_rows=self._datagram_rows,
            containers=self._containers,
            reload_now=self._reload,
        )
        self._gates = Gates(
            settings=settings,
            maps=self._maps,
            wanted=lambda: self._switch.gates_wanted(),
            namespaces=namespaces.all,
            connect=CgroupGate(pins, Path(manifest.cgroup), CONNECT),
            bind=CgroupGate(pins, Path(manifest.cgroup), BIND),
            socket=SocketGate(pins),
            datagrams=Datagrams.on(
                settings, self._maps, pins, Path(manifest.cgroup), lambda: self._keeper.policy
            ),
            make_packet_gate=lambda: packet_gate(settings),
        )
        self._reader = reader
        self._finder = NamespaceFinder(
            namespaces, self._keeper.namespace_seen, lambda: depends_on_addresses(self._keeper.compiled)
        )
        self._execs = ExecWatch(
            exec_tracepoint(pins, lambda: is_of_use(self._keeper.compiled)),
            lambda: self._background(asyncio.to_thread(self._name_what_runs)),
        )
        self._removals = Tracepoint(
            pins, "cgroup_rmdir", RMDIR, self._keeper.has_homes, "addresses are taken away at the next look"
        )
        self._overrides = Overrides(
            self._counters.modes,
            self._keeper.ids.target,
            self._targets_in_force,
            settings.paths.state / "modes.json",
        )
        self._strangers = Strangers(self._listening, lambda: self._keeper.policy, lambda: self._keeper.facts)
        self._last_hour = LastHour(self._state, self._usage, self._keeper, self._strangers)
        self._switch = ModeSwitch(
            overrides=self._overrides,
            gates=self._gates,
            attached=lambda: self._gates.attached,
            policy=lambda: self._keeper.policy,
            foresight=Foresight(self._keeper, self._usage.since, flows),
            lost=self._rights.lost,
            failsafe=self._failsafe,
            tell=self._tell_mode,
            strangers=self._strangers.since,
            known_since_ns=lambda: self._last_hour.since_ns,
        )
        self._view.mode_switch = self._switch
        self._view.gates = self._gates
        self._ring = RingReader(self._counters.ring.fd, self._counters.bulk.fd)
        self._host_busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: set[asyncio.Future[None]] = set()
        self._statistics = libbpf.enable_stats(STATS_RUN_TIME) if settings.costs else None

    async def serve(self) -> None:
        """Until SIGINT or SIGTERM. Raises LicetError where there is no policy to go on with."""
        await self._first_policy()
        await asyncio.to_thread(self._last_hour.restore)
        self._tune()
        self._maps.set_failsafe(self._failsafe)
        await asyncio.to_thread(self._overrides.restore)
        await self._settle_gates()
        if not self._keeper.last_error:
            self._keeper.note_in_force()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop.set)
        loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        self._follow_policy_files()
        loop.add_reader(self._address_watch.fileno(), self._on_address)
        self._finder.start()
        async with contextlib.AsyncExitStack() as stack:
            servers = Servers(
                self._view,
                self._settings.listen,
                self._settings.control_socket,
                self._settings.health_listen,
                self._settings.hosts,
            )
            await stack.enter_async_context(servers)
            self._view.public_address = servers.public_address
            self._switch.failsafe = self._cutter.failsafe = self._failsafe | servers.ports
            self._maps.set_failsafe(self._switch.failsafe)
            await self._look()
            # what waits in the ring from before is told with its owners, which are known from here on
            self._on_records(earlier_events.taken(earlier_events.kept_in(self._settings.paths.run)))
            loop.add_reader(self._ring.fileno(), self._on_ring)
            await self._store_time()
            await self._see_to_troubles()
            await self._say_troubles()
            self._view.is_ready = True
            self._teller.started(self._view)
            self._background(self._warn_of_lost_rights())
            self._manager.ready(self._in_force())
            await self._run_until_stopped()
            self._manager.stopping()
        await self._summarise()
        await self._store_time()
        await self._store_uses()
        self._teller.stopped()

    def _policy_in_force(self) -> PolicyInForce:
        return PolicyInForce(self._keeper.generation, self._keeper.sha256)

    async def _run_until_stopped(self) -> None:
        intervals = self._settings.intervals
        tasks = [
            asyncio.create_task(self._every(intervals.reconcile, self._look, self._wake)),
            asyncio.create_task(self._every(intervals.summary, self._summarise)),
            asyncio.create_task(self._every(STORE_TIME_S, self._store_time)),
            asyncio.create_task(self._every(STORE_USES_S, self._store_uses)),
            asyncio.create_task(self._every(GATES_S, self._gates.follow)),
            asyncio.create_task(self._every(GATES_S, self._follow_tracepoints)),
            asyncio.create_task(self._every(CUT_S, self._cut)),
            asyncio.create_task(self._every(LICENSES_S, self._follow_licenses)),
            asyncio.create_task(self._every(DATAGRAMS_S, self._sweep_datagrams)),
            asyncio.create_task(self._every(MODES_S, self._switch.follow)),
            asyncio.create_task(self._every(CONTAINERS_S, self._follow_containers)),
            asyncio.create_task(self._every(LINKS_S, self._follow_links)),
            asyncio.create_task(self._every(TROUBLES_S, self._see_to_troubles)),
            asyncio.create_task(self._every(TROUBLES_S, self._say_troubles)),
            asyncio.create_task(self._say_edges()),
            asyncio.create_task(self._stand_by()),
            asyncio.create_task(self._every(self._manager.alive_every_s, self._alive)),
        ]
        await self._stop.wait()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _every(
        self, seconds: float, work: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None
    ) -> None:
        """A failure is told and tried again the next time: the kernel goes on judging meanwhile."""
        while True:
            if wake is None:
                await asyncio.sleep(seconds)
            else:
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(wake.wait(), seconds)
                wake.clear()
            began_s = time.monotonic()
            with failures_told(), self._passes.passing(work.__qualname__):
                await work()
            if wake is not None:
                await _rest(time.monotonic() - began_s, seconds)

    async def _first_policy(self) -> None:
        """A bad policy at start is an error, unless there is a last good one, or the kernel still judges by
        an earlier one."""
        earlier = self._maps.generation
        try:
            await asyncio.to_thread(self._keeper.start)
        except LicetError as error:
            if not earlier:
                raise
            self._keeper.generation = earlier
            log.error("the policy of an earlier run stays in force: %s", error)
        if self._keeper.last_error:
            self._retry.reloaded()
            self._teller.policy_refused(self._keeper.last_error)

    async def _reload(self) -> None:
        if not self._view.is_ready:
            await self._reload_policy()
            return
        self._manager.reloading()
        try:
            await self._reload_policy()
        finally:
            self._manager.ready(self._in_force())

    async def _reload_policy(self) -> None:
        async with self._host_busy:
            try:
                with self._passes.passing("reload"):
                    await asyncio.to_thread(self._keeper.reload)
            except LicetError as error:
                self._teller.policy_refused(str(error))
                raise
            finally:
                self._retry.reloaded()
        self._tune()
        self._execs.follow()
        await asyncio.to_thread(self._overrides.restore)
        await self._settle_gates()
        self._cutter.look_again()
        self._teller.policy_loaded()
        self._keeper.note_in_force()
        self._background(self._store_uses())  # by which policy they were judged
        self._wake.set()

    async def _warn_of_lost_rights(self) -> None:
        for finding in await asyncio.to_thread(self._rights.lost):
            log.warning("%s", finding)

    async def _reload_quietly(self) -> None:
        try:
            await self._reload()
        except LicetError as error:
            if self._quiet:  # people have been told
                log.error("the policy in force stays: %s", error)

    def _targets_in_force(self) -> tuple[Target, ...]:
        """After a bad policy at start the kernel goes on judging by the earlier one."""
        policy = self._keeper.policy
        return policy.targets if policy else tuple(self._keeper.ids.targets.values())

    def _tell_mode(self, event: Event) -> None:
        self._cutter.look_again()
        self._teller.mode(event)

    async def _cut(self) -> None:
        if self._gates.attached:
            self._teller.cut(await asyncio.to_thread(self._cutter.cut_due))

    async def _follow_licenses(self) -> None:
        self._licenses.look()

    async def _settle_gates(self) -> None:
        """Where they can't be attached, observing goes on: that is worth more than nothing. While the policy
        of an earlier run is in force, its gates stay as they are."""
        if self._keeper.policy is None and self._keeper.generation and self._keeper.last_error:
            return
        try:
            await self._gates.settle()
        except LicetError as error:
            log.error("nothing is refused, though the policy enforces: %s", error)

    async def _stand_by(self) -> None:
        try:
            await self._gates.stand_by()
        except LicetError as error:
            log.error("the gates cannot be loaded; licet can only observe here: %s", error)

    def _tune(self) -> None:
        self._judging.tune(self._settings)

    def _on_hangup(self) -> None:
        self._events.reopen()
        self._background(self._reload_quietly())

    def _on_policy_file(self) -> None:
        if self._policy_watch.changed():
            self._background(self._reload_quietly())

    def _follow_policy_files(self) -> None:
        """Where the kernel tells of changes (it may have had no room for that at first)."""
        descriptor = self._policy_watch.fileno()
        if descriptor is not None and not self._is_watching:
            asyncio.get_running_loop().add_reader(descriptor, self._on_policy_file)
            self._is_watching = True

    async def _see_to_troubles(self) -> None:
        if self._policy_watch.problem:
            self._on_policy_file()
            self._follow_policy_files()
        if self._retry.is_due():
            self._background(self._reload_quietly())
        await asyncio.to_thread(self._state.retry)
        await asyncio.to_thread(self._overrides.retry)
        await asyncio.to_thread(self._pins_watch.look)

    async def _say_troubles(self) -> None:
        self._troubles.log_changes()

    def _on_address(self) -> None:
        if self._address_watch.changed():
            self._wake.set()

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)

    def _on_ring(self) -> int:
        """How many records there were, of a turn."""
        records = self._ring.drain()
        self._on_records(records)
        return len(records)

    def _ring_until_empty(self) -> Iterator[None]:
        """Or until what can wait there at once was read: more comes meanwhile."""
        read = 0
        while read < WAITING and (many := self._on_ring()):
            read += many
            yield

    def _on_records(self, records: list[bytes]) -> None:
        for event in ring.decode(records):
            with failures_told():
                self._on_event(event)

    def _on_event(self, event: ring.Event) -> None:
        match event:
            case abi.NameEvent():
                path = self._names.learn(event)
                if not event.exe & abi.EXE_UNTRUSTED:
                    self._keeper.executable_known(path)
            case abi.CgroupEvent():
                self._on_cgroup(event)
            case abi.GoneEvent():
                if self._keeper.is_home(event.id):
                    self._background(self._leave_home())
            case abi.NetnsEvent():
                self._finder.program_started(event.pid, event.netns)
            case abi.UseEvent():
                attempt = self._usage.first_attempt(event)
                if attempt is not None:
                    self._teller.first_attempt(attempt)
                if event.verdict.reason == Reason.UNRESOLVED:
                    self._wake.set()  # it may be a namespace nobody has looked at yet
            case abi.ListenEvent() if event.header.type == abi.EventType.BIND:
                self._on_refused_bind(event)
            case abi.ListenEvent():
                self._on_listen(event)
            case abi.FlowEvent():
                self._teller.flow(with_server(event, self._counters.flows), self._names)

    def _on_cgroup(self, event: abi.CgroupEvent) -> None:
        path = event.path.decode("utf-8", "surrogateescape")
        if not path:  # longer than an event has room for
            self._wake.set()
            return
        self._attributor.learn_cgroup(event.id, path)
        by_root = bool(event.by_root)
        self._containers.appeared(path, by_root=by_root)
        self._keeper.cgroup_made(event.id, path, by_root=by_root)

    async def _leave_home(self) -> None:
        """A container that a service is at has ended: the next one may have its addresses already."""
        async with self._host_busy:
            with failures_told():
                await asyncio.to_thread(self._keeper.follow_host)

    async def _follow_tracepoints(self) -> None:
        self._execs.follow()
        self._removals.follow()

    def _name_what_runs(self) -> None:
        for path in running_executables(self._reader):
            self._keeper.executable_known(path)

    async def _follow_containers(self) -> None:
        self._keeper.name_containers(CONTAINER_STARTS_S)
        if self._keeper.awaits_home(CONTAINER_STARTS_S):
            self._wake.set()

    async def _follow_links(self) -> None:
        if await asyncio.to_thread(self._judging.host.links_switched):
            self._wake.set()

    def _on_refused_bind(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self._names)
        if seen is not None:
            process = self._attributor.complete(seen, comm=event.comm.decode("utf-8", "surrogateescape"))
            protocol = Protocol(event.protocol or Protocol.TCP)  # 0.1.0 did not say; what waited in its ring
            self._teller.refused_bind(process, event.address.value(), protocol, event.port, event.target)
            target = self._keeper.ids.target_named(event.target)
            if target is not None:
                self._strangers.refused(target, event.address.value(), event.port, process)

    def _on_listen(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self._names)
        if seen is not None:
            comm = event.comm.decode("utf-8", "surrogateescape")
            owner = self._attributor.recent(seen, comm)
            self._listening.heard(event.cookie, seen.netns, event.port, event.address.value(), owner)
            self._strangers.heard(event.cookie, seen.netns, event.address.value(), event.port, owner)
        self._wake.set()

    async def _look(self) -> None:
        async with self._host_busy:
            await asyncio.to_thread(self._follower.follow)
        findings = await asyncio.to_thread(self._follower.look)
        for one in findings.adopted:
            self._usage.found(one.target, one.flow.verdict.decision, one.flow.consumer)
        if findings.adopted:
            self._cutter.look_again()  # they may have been judged by the policy of before
        self._teller.findings(findings)

    async def _sweep_datagrams(self) -> None:
        if self._gates.datagrams.attached:
            await asyncio.to_thread(self._datagram_rows.sweep, boot_ns())

    async def _summarise(self) -> None:
        await _in_turns(self._ring_until_empty())
        await _in_turns(self._teller.summarising(self._usage))

    async def _say_edges(self) -> None:
        """Once there has been time for some traffic."""
        await asyncio.sleep(EDGES_AFTER_S)
        self._teller.edges(self._view)

    async def _store_time(self) -> None:
        await asyncio.to_thread(self._state.store_time, self._judging.clock.newest_ns)

    async def _store_uses(self) -> None:
        await asyncio.to_thread(self._last_hour.store)

    async def _alive(self) -> None:
        self._manager.alive()

    def _in_force(self) -> str:
        """In a line, for `systemctl status`."""
        if self._keeper.is_last_good:
            return "the policy's files are refused; the last good policy is in force"
        if self._keeper.last_error:
            return f"the new policy is refused; generation {self._keeper.generation} stays in force"
        if self._keeper.policy is None:
            return "no policy: watching only"
        return f"policy generation {self._keeper.generation} is in force"


async def _in_turns(work: Iterator[None]) -> None:
    """Each step is short. Whoever makes very many events, or rows, keeps nobody from being answered."""
    until_s = time.monotonic() + TURN_S
    for _ in work:
        if time.monotonic() >= until_s:
            await asyncio.sleep(0)
            until_s = time.monotonic() + TURN_S


async def _rest(took_s: float, most_s: float) -> None:
    """Whoever wakes it again and again, on a host with very many sockets, must not make looks all that is
    done."""
    if took_s > LONG_S:
        await asyncio.sleep(min(took_s * RESTS, most_s))


def _sink(settings: Settings, quiet: bool) -> str:
    """Where events go. Raises ConfigError where a file could never be made there."""
    sink = settings.events.sink
    if sink == "auto":
        return "stdout" if quiet else "none"
    if sink not in ("stdout", "none") and not Path(sink).parent.is_dir():
        raise ConfigError(f"events.sink: {sink}: no such directory; make it, or choose another file")
    return sink


def _warn_of_missing_namespaces(settings: Settings) -> None:
    for path in settings.scope.namespaces or ():
        if not Path(path).exists():
            log.warning("scope.namespaces: %s: not there (yet): its listeners are not listed", path)
