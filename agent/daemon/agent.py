"""The loop: events from the kernel, a look at the host every few seconds, reloads, and the two sockets."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

from agent.config import Settings
from agent.daemon.attribute import Attributor
from agent.daemon.cutting import FlowCutter
from agent.daemon.flows import FlowTable
from agent.daemon.following import HostFollower
from agent.daemon.gating import Gates
from agent.daemon.host import Host, containers_of
from agent.daemon.listener_owners import ListenerOwners
from agent.daemon.listening import Listening
from agent.daemon.mode_switch import ModeSwitch
from agent.daemon.notify import service_manager
from agent.daemon.packet_gate import packet_gate
from agent.daemon.policies import PolicyKeeper
from agent.daemon.state import State
from agent.daemon.telling import Teller
from agent.daemon.usage import Usage
from agent.daemon.view import View
from agent.enforce.modes import Overrides
from agent.errors import ConfigError, LicetError
from agent.export.event_log import EventLog
from agent.export.events import Event
from agent.export.server import Servers
from agent.kernel import abi, libbpf, ring
from agent.kernel.gates import BIND, CONNECT, CgroupGate, SocketGate
from agent.kernel.load import Manifest
from agent.kernel.maps import Counters, PolicyMaps
from agent.kernel.pins import Pins
from agent.kernel.records import Names, process_of
from agent.model import Reason, Target
from agent.observe.inventory import Inventory
from agent.observe.netns import Namespaces, own_cookie
from agent.observe.policy_watch import PolicyWatch
from agent.observe.proc import ProcReader, UserNames
from agent.observe.route_watch import AddressWatch

log = logging.getLogger(__name__)
STORE_TIME_S = 60.0
EDGES_AFTER_S = 5.0
GATES_S = 0.5
CUT_S = 0.5
MODES_S = 0.5
CONTAINERS_S = 0.2
CONTAINER_STARTS_S = 10.0
"""So long after its cgroup appeared, a container's name and network are looked for at once; later, with all
the rest."""


class Daemon:
    def __init__(self, settings: Settings, manifest: Manifest, cgroup_mount: Path, quiet: bool) -> None:
        self._settings = settings
        self._manager = service_manager(os.environ)
        pins = Pins(settings.paths.pins)
        self._state = State(settings.paths.state)
        self._policy_watch = PolicyWatch(settings.paths.policy, settings.paths.policy_dir)
        self._address_watch = AddressWatch()
        self._maps = PolicyMaps(pins)
        self._counters = Counters(pins)
        seed = self._maps.ensure_seed()
        user_name = UserNames()
        self._containers = containers_of(settings, cgroup_mount)
        reader = ProcReader(
            settings.paths.proc,
            cgroup_mount=cgroup_mount,
            user_name=user_name,
            container_of=self._containers.containing,
        )
        namespaces = Namespaces(reader, settings.scope.namespaces)
        self._names = Names(self._counters.names, seed, reader.exe)
        self._attributor = Attributor(reader, cgroup_mount, user_name)
        host = Host(
            reader,
            namespaces,
            cgroup_mount,
            seed,
            self._state.newest_time(),
            self._names.trusted_paths,
            self._containers,
        )
        self._keeper = PolicyKeeper(settings, self._maps, self._state, host.facts, self._containers.at)
        named = self._keeper.ids.target_named
        self._usage = Usage(self._counters, self._names, self._attributor.complete, named)
        owners = ListenerOwners(self._counters.owners, self._counters.socket_owners, reader, self._names.note)
        self._listening = Listening(Inventory(reader, namespaces), reader, owners)
        flows = FlowTable(
            self._counters,
            self._names,
            self._attributor.complete,
            named,
            self._listening.owner_of,
            reader.names_are_trusted,
        )
        self._follower = HostFollower(
            self._keeper, self._listening, flows, self._attributor, namespaces, self._containers
        )
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
        self._events = EventLog(_sink(settings, quiet), settings.events.keep)
        self._teller = Teller(self._events, self._keeper, self._listening, self._attributor, quiet)
        self._view = View(
            settings=settings,
            manifest=manifest,
            pins=pins,
            keeper=self._keeper,
            counters=self._counters,
            names=self._names,
            usage=self._usage,
            flow_table=flows,
            listening=self._listening,
            event_log=self._events,
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
            make_packet_gate=lambda: packet_gate(settings),
        )
        self._overrides = Overrides(
            self._counters.modes,
            self._keeper.ids.target,
            self._targets_in_force,
            settings.paths.state / "modes.json",
        )
        self._switch = ModeSwitch(
            overrides=self._overrides,
            gates=self._gates,
            attached=lambda: self._gates.attached,
            policy=lambda: self._keeper.policy,
            denied=self._usage.denied,
            failsafe=self._failsafe,
            tell=self._tell_mode,
        )
        self._view.mode_switch = self._switch
        self._view.gates = self._gates
        self._ring = libbpf.RingReader(self._counters.ring.fd)
        self._host_busy = asyncio.Lock()
        self._wake = asyncio.Event()
        self._stop = asyncio.Event()
        self._running: set[asyncio.Future[None]] = set()
        self._statistics = libbpf.enable_stats() if settings.costs else None

    async def serve(self) -> None:
        """Until SIGINT or SIGTERM. Raises LicetError where there is no policy to go on with."""
        await self._first_policy()
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
        loop.add_reader(self._policy_watch.fileno(), self._on_policy_file)
        loop.add_reader(self._address_watch.fileno(), self._on_address)
        async with contextlib.AsyncExitStack() as stack:
            servers = Servers(self._view, self._settings.listen, self._settings.control_socket)
            await stack.enter_async_context(servers)
            self._view.public_address = servers.public_address
            own_port = int(servers.public_address.rpartition(":")[2])
            self._switch.failsafe = self._cutter.failsafe = self._failsafe | {own_port}
            self._maps.set_failsafe(self._switch.failsafe)
            await self._look()
            # what waits in the ring from before is told with its owners, which are known from here on
            loop.add_reader(self._ring.fileno(), self._on_ring)
            self._view.is_ready = True
            self._teller.started(self._view)
            self._manager.ready(self._in_force())
            await self._run_until_stopped()
            self._manager.stopping()
        self._on_ring()
        self._teller.summaries(self._usage)
        self._state.store_time()
        self._teller.stopped()

    async def _run_until_stopped(self) -> None:
        intervals = self._settings.intervals
        tasks = [
            asyncio.create_task(self._every(intervals.reconcile, self._look, self._wake)),
            asyncio.create_task(self._every(intervals.summary, self._summarise)),
            asyncio.create_task(self._every(STORE_TIME_S, self._store_time)),
            asyncio.create_task(self._every(GATES_S, self._gates.follow)),
            asyncio.create_task(self._every(CUT_S, self._cut)),
            asyncio.create_task(self._every(MODES_S, self._switch.follow)),
            asyncio.create_task(self._every(CONTAINERS_S, self._follow_containers)),
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
            try:
                await work()
            except (LicetError, OSError) as error:
                log.error("%s", error)

    async def _first_policy(self) -> None:
        """A bad policy at start is an error, unless the kernel still judges by an earlier one."""
        earlier = self._maps.generation
        try:
            await asyncio.to_thread(self._keeper.reload)
        except LicetError as error:
            if not earlier:
                raise
            self._keeper.generation = earlier
            log.error("the policy of an earlier run stays in force: %s", error)

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
                await asyncio.to_thread(self._keeper.reload)
            except LicetError as error:
                self._teller.policy_refused(str(error))
                raise
        self._tune()
        await asyncio.to_thread(self._overrides.restore)
        await self._settle_gates()
        self._cutter.look_again()
        self._teller.policy_loaded()
        self._keeper.note_in_force()
        self._wake.set()

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
        edges = self._settings.edges == "always" or (
            self._settings.edges == "auto" and self._keeper.policy is None
        )
        self._maps.tune(host_netns=own_cookie(), edges=edges, flow_events=self._settings.events.flows)

    def _on_hangup(self) -> None:
        self._events.reopen()
        self._background(self._reload_quietly())

    def _on_policy_file(self) -> None:
        if self._policy_watch.changed():
            self._background(self._reload_quietly())

    def _on_address(self) -> None:
        if self._address_watch.changed():
            self._wake.set()

    def _background(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)

    def _on_ring(self) -> None:
        for event in ring.decode(self._ring.drain()):
            match event:
                case abi.NameEvent():
                    path = self._names.learn(event)
                    if not event.exe & abi.EXE_UNTRUSTED:
                        self._keeper.executable_known(path)
                case abi.CgroupEvent():
                    self._on_cgroup(event)
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
                    self._teller.flow(event, self._names)

    def _on_cgroup(self, event: abi.CgroupEvent) -> None:
        path = event.path.decode("utf-8", "surrogateescape")
        if not path:  # longer than an event has room for
            self._wake.set()
            return
        self._attributor.learn_cgroup(event.id, path)
        self._containers.appeared(path)
        self._keeper.cgroup_made(event.id, path)

    async def _follow_containers(self) -> None:
        self._keeper.name_containers(CONTAINER_STARTS_S)
        if self._keeper.awaits_home(CONTAINER_STARTS_S):
            self._wake.set()

    def _on_refused_bind(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self._names)
        if seen is not None:
            process = self._attributor.complete(seen, comm=event.comm.decode("utf-8", "replace"))
            self._teller.refused_bind(process, event.address.value(), event.port)

    def _on_listen(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self._names)
        if seen is not None:
            comm = event.comm.decode("utf-8", "replace")
            owner = self._attributor.complete(seen, comm=comm)
            self._listening.heard(seen.netns, event.port, event.address.value(), owner)
        self._wake.set()

    async def _look(self) -> None:
        async with self._host_busy:
            findings = await asyncio.to_thread(self._follower.look)
        self._teller.findings(findings)

    async def _summarise(self) -> None:
        self._on_ring()
        self._teller.summaries(self._usage)

    async def _say_edges(self) -> None:
        """Once there has been time for some traffic."""
        await asyncio.sleep(EDGES_AFTER_S)
        self._teller.edges(self._view)

    async def _store_time(self) -> None:
        self._state.store_time()

    async def _alive(self) -> None:
        self._manager.alive()

    def _in_force(self) -> str:
        """In a line, for `systemctl status`."""
        if self._keeper.last_error:
            return f"the new policy is refused; generation {self._keeper.generation} stays in force"
        if self._keeper.policy is None:
            return "no policy: watching only"
        return f"policy generation {self._keeper.generation} is in force"


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
