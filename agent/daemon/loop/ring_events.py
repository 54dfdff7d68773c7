"""Handles events from the kernel's rings, with one handler for each kind."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent import abi
from agent.daemon.loop.host_watch import HostWatch
from agent.daemon.loop.schedule import Background
from agent.daemon.policy_sync.home_watch import HomeWatch
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.namespace_finder import NamespaceFinder
from agent.daemon.reporting.listener_reports import ListenerReports
from agent.daemon.reporting.reporter import Reporter
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.exposures import Exposures
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.refused_binds import RefusedBinds
from agent.daemon.tracking.strangers import Strangers
from agent.daemon.tracking.usage import Attempt, Usage
from agent.failures import failures_told
from agent.kernel.tables import ring
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import process_of, with_server
from agent.model import Protocol, Reason
from agent.observe.containers import Containers
from agent.system.boottime import boot_ns
from agent.system.bpf_ring import RingReader

WAITING = 4096
"""Approximate number of records that the two rings hold."""


@dataclass(frozen=True, slots=True, eq=False)
class RingEvents:
    reader: RingReader
    counters: Counters
    names: Names
    keeper: PolicyKeeper
    attributor: Attributor
    containers: Containers
    homes: HomeWatch
    finder: NamespaceFinder
    usage: Usage
    exposures: Exposures
    listening: Listening
    strangers: Strangers
    refused_binds: RefusedBinds
    reporter: Reporter
    listener_reports: ListenerReports
    host: HostWatch
    background: Background

    def fileno(self) -> int:
        return self.reader.fileno()

    def drain(self) -> int:
        """Handle one turn of records and return their number."""
        records = self.reader.drain()
        self.take(records)
        return len(records)

    def until_empty(self) -> Iterator[None]:
        """Handle records until the rings are empty. Stops after as many as the rings hold, because more
        arrive meanwhile."""
        read = 0
        while read < WAITING and (many := self.drain()):
            read += many
            yield

    def take(self, records: list[bytes]) -> None:
        """Handle records one by one, so that a failing one does not affect others."""
        for event in ring.decode(records):
            with failures_told():
                self.handle(event)

    def summaries(self) -> Iterator[None]:
        """Report summaries row by row: there may be 12,000 rows, and other work needs its turn in between."""
        now_ns = boot_ns()
        for attempt in self.usage.look(now_ns):
            if attempt is not None:
                self.reporter.summary(attempt, now_ns)
                self._expose(attempt)
            yield

    def handle(self, event: ring.Event) -> None:
        """Handle one event of any kind. An unknown kind is ignored, because a later version may send it."""
        match event:
            case abi.NameEvent():
                self._on_name(event)
            case abi.CgroupEvent():
                self._on_cgroup(event)
            case abi.GoneEvent():
                if self.homes.is_home(event.id):
                    self.background.start(self.host.leave_home())
            case abi.NetnsEvent():
                self.finder.program_started(event.pid, event.netns)
            case abi.UseEvent():
                self._on_use(event)
            case abi.ListenEvent() if event.header.type == abi.EventType.BIND:
                self._on_refused_bind(event)
            case abi.ListenEvent():
                self._on_listen(event)
            case abi.FlowEvent():
                self.reporter.flow(with_server(event, self.counters.flows))

    def _on_name(self, event: abi.NameEvent) -> None:
        path = self.names.learn(event)
        if not event.exe & abi.EXE_UNTRUSTED:
            self.keeper.executable_known(path)

    def _on_cgroup(self, event: abi.CgroupEvent) -> None:
        path = event.path.decode("utf-8", "surrogateescape")
        if not path:  # the path is longer than an event has room for
            self.host.wake.set()
            return
        self.attributor.learn_cgroup(event.id, path)
        by_root = bool(event.by_root)
        self.containers.appeared(path, by_root=by_root)
        self.keeper.cgroup_made(event.id, path, by_root=by_root)

    def _on_use(self, event: abi.UseEvent) -> None:
        attempt = self.usage.first_attempt(event)
        if attempt is not None:
            self.reporter.first_attempt(attempt)
            self._expose(attempt)
        if event.verdict.reason == Reason.UNRESOLVED:
            self.host.wake.set()  # the namespace may not have been looked at yet

    def _expose(self, attempt: Attempt) -> None:
        if self.exposures.is_new(attempt):
            self.listener_reports.exposure(attempt)

    def _on_refused_bind(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self.names)
        if seen is None:
            return
        process = self.attributor.complete(seen, comm=event.comm.decode("utf-8", "surrogateescape"))
        protocol = Protocol(event.protocol or Protocol.TCP)  # 0.1.0 sent no protocol
        address, port = event.address.value(), event.port
        if attempts := self.refused_binds.met(process, protocol, port):
            self.listener_reports.refused_bind(process, address, protocol, port, event.target, attempts)
        target = self.keeper.ids.target_named(event.target)
        if target is not None:
            self.strangers.refused(target, address, port, process)

    def _on_listen(self, event: abi.ListenEvent) -> None:
        seen = process_of(event.owner, self.names)
        if seen is not None:
            owner = self.attributor.recent(seen, event.comm.decode("utf-8", "surrogateescape"))
            address = event.address.value()
            self.listening.heard(event.cookie, seen.netns, event.port, address, owner)
            self.strangers.heard(event.cookie, seen.netns, address, event.port, owner)
        self.host.wake.set()
