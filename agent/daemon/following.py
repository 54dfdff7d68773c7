"""Following the host: names that arrive from the kernel, and a look at everything every few seconds."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.daemon.attribute import Attributor
from agent.daemon.flows import Adopted, FlowTable, cookie_of
from agent.daemon.listening import Listening
from agent.daemon.policies import PolicyKeeper
from agent.export.view import JudgedListener
from agent.model import Flow, HostFacts, ListenerState, Namespace
from agent.observe.containers import Containers
from agent.observe.netns import NamespaceGone, Namespaces, open_in
from agent.observe.sockets import SocketDiag
from agent.policy.tables import Tables, TargetKey

log = logging.getLogger(__name__)
SWEEP_S = 30.0
OVERWRITTEN_SWEEP_S = 5.0
"""While closes stay unseen, because another program overwrites what we ask for: rows of flows that have ended
would fill the table."""


@dataclass(frozen=True, slots=True)
class Findings:
    """What one look brought up."""

    listeners: list[tuple[JudgedListener, ListenerState]] = field(default_factory=list)
    adopted: list[Adopted] = field(default_factory=list)
    closed: list[Flow] = field(default_factory=list)
    recompiled: bool = False


@dataclass(slots=True)
class HostFollower:
    keeper: PolicyKeeper
    listening: Listening
    flows: FlowTable
    attributor: Attributor
    namespaces: Namespaces
    containers: Containers
    _adopted_for: frozenset[TargetKey] = frozenset()
    """Places whose connections from before have been looked for."""
    _swept_s: float = 0.0
    _sweep_s: float = SWEEP_S
    _cgroups: dict[int, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic

    def look(self) -> Findings:
        """One look at everything. Meant for a thread of its own: it may take tenths of a second."""
        recompiled = self.keeper.follow_host()
        self._follow_cgroups()
        facts = self.keeper.facts
        if facts is None:
            return Findings()
        listeners = self.listening.look(self.keeper.policy, facts)
        return Findings(listeners, self._adopt(), self._sweep(), recompiled)

    def _follow_cgroups(self) -> None:
        """Those whose making the kernel could not tell (a full ring, no raw tracepoints)."""
        now = self.attributor.read_cgroups()
        for path, number in now.items():
            if number not in self._cgroups:
                self.keeper.cgroup_made(number, path)
        gone = {number: path for number, path in self._cgroups.items() if now.get(path) != number}
        paths = [path for path in gone.values() if path not in now]
        self.keeper.cgroups_gone([*gone, *self.attributor.forget_cgroups(now.values())], paths)
        self.containers.forget_all_but(now)
        self._cgroups = {number: path for path, number in now.items()}
        self.keeper.name_containers()

    def _adopt(self) -> list[Adopted]:
        """Connections from before the agent, or from before the policy declared their port."""
        tables, facts = self.keeper.tables, self.keeper.facts
        if tables is None or facts is None:
            return []
        declared = frozenset(tables.targets)
        new_ports = {key.port for key in declared - self._adopted_for}
        if not new_ports:
            return []
        adopted = self._adopt_at(new_ports, tables, facts)
        self._adopted_for = declared
        return adopted

    def _adopt_at(self, new_ports: set[int], tables: Tables, facts: HostFacts) -> list[Adopted]:
        unseen = self.flows.unseen(self.listening.inventory.connections(new_ports), facts)
        if not unseen:
            return []
        live, _ = self._live_sockets(new_ports)
        alive = [one for one in unseen if cookie_of(one) in live]
        now_boot_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        return self.flows.adopt(alive, tables, now_boot_ns)

    def _sweep(self) -> list[Flow]:
        if self.clock() - self._swept_s < self._sweep_s:
            return []
        self._swept_s = self.clock()
        before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        ports = {flow.port for flow in self.flows.rows()}
        if not ports:
            return []
        live, looked_at = self._live_sockets(ports)
        closed = self.flows.sweep(live, looked_at, before_ns)
        self._sweep_s = OVERWRITTEN_SWEEP_S if closed else SWEEP_S
        return closed

    def _live_sockets(self, ports: set[int]) -> tuple[frozenset[int], frozenset[int]]:
        """(cookies of the connected sockets of these ports, cookies of the namespaces looked at)."""
        live: set[int] = set()
        looked_at: set[int] = set()
        for namespace in self.namespaces.all():
            try:
                live |= _cookies_in(namespace, ports)
            except NamespaceGone:
                continue
            looked_at.add(namespace.cookie)
        return frozenset(live), frozenset(looked_at)


def _cookies_in(namespace: Namespace, ports: set[int]) -> set[int]:
    with open_in(namespace, lambda: SocketDiag(namespace.cookie)) as diag:
        return {one.cookie for one in diag.connections(ports)}
