"""Reconciles the daemon's state with the host: names from the kernel, and a look at everything every few
seconds."""

from __future__ import annotations

import logging
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.adoption import Adopted, Adoption, followed_socket
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.unnamed_containers import Unnamed
from agent.export.agent_port import JudgedListener
from agent.kernel.tables.encode_rows import End, ends_of
from agent.model import Flow, HostFacts, ListenerState, Namespace, Socket
from agent.observe.connections import Connection
from agent.observe.containers import Containers
from agent.observe.netns import Namespaces
from agent.observe.sockets import SocketDiag
from agent.policy.tables.shape import Numbered, Tables, TargetKey
from agent.policy.terms.ports import Ports
from agent.system.boottime import boot_ns
from agent.system.netns import in_each

log = logging.getLogger(__name__)

_Places = tuple[tuple[Numbered, ...], frozenset[TargetKey]]
"""Ports, and the places of each port's number."""

SWEPT_EACH = 6
"""Number of looks between two sweeps of rows whose socket is gone."""
ONE_BY_ONE = 500
"""Limit for querying a namespace's sockets one by one. For more sockets, a list costs less."""
OVERWRITTEN_SWEPT_EACH = 1
"""Looks between sweeps while another program overwrites our callbacks and closes stay unseen. Rows of ended
flows would otherwise fill the table."""


@dataclass(frozen=True, slots=True)
class Findings:
    """The results of one look."""

    listeners: list[tuple[JudgedListener, ListenerState]] = field(default_factory=list)
    adopted: list[Adopted] = field(default_factory=list)


@dataclass(slots=True)
class HostFollower:
    """Looks at everything: listeners, older flows, cgroups, namespaces."""

    keeper: PolicyKeeper
    listening: Listening
    flows: FlowTable
    adoption: Adoption
    attributor: Attributor
    namespaces: Namespaces
    containers: Containers
    look_s: float
    """Seconds between two looks that nothing else requests."""
    _adopted_for: _Places = ((), frozenset())
    """Places whose older connections have been searched for."""
    _adopted_by: Tables | None = None
    """The tables that had these places."""
    _swept_s: float = 0.0
    _swept_each: int = SWEPT_EACH
    _cgroups: dict[int, str] = field(default_factory=dict)
    clock: Callable[[], float] = time.monotonic
    _unnamed: Unnamed = field(init=False)

    def __post_init__(self) -> None:
        self._unnamed = Unnamed(self.containers.roots)

    def follow(self) -> None:
        """Update the policy's tables to the host. Never call this during a reload."""
        self.keeper.follow_host()
        self._follow_cgroups()

    def look(self) -> Findings:
        """Look at sockets. This may take tenths of a second, so a reload need not wait; the next look sees
        its changes."""
        policy, facts = self.keeper.policy, self.keeper.facts
        if facts is None:
            return Findings()
        found = Findings(self.listening.look(policy, facts), self._adopt())
        self._sweep(facts)
        return found

    def _follow_cgroups(self) -> None:
        """Find cgroups that the kernel could not report when they were made (full ring, no raw
        tracepoints)."""
        now = self.attributor.read_cgroups()
        for path, number in now.items():
            if number not in self._cgroups:
                self.keeper.cgroup_made(number, path, by_root=self.containers.only_root_makes(path))
        gone = {number: path for number, path in self._cgroups.items() if now.get(path) != number}
        paths = [path for path in gone.values() if path not in now]
        self.keeper.cgroups_gone([*gone, *self.attributor.forget_cgroups(now.values())], paths)
        self.containers.forget_all_but(now)
        self._cgroups = {number: path for path, number in now.items()}
        self.keeper.name_containers()
        self._unnamed.follow(self.keeper.unnamed_since_s)

    def _adopt(self) -> list[Adopted]:
        """Adopt connections older than the agent, or older than the policy's declaration of their port."""
        tables, facts = self.keeper.tables, self.keeper.facts
        if tables is None or facts is None or tables is self._adopted_by:
            return []
        declared = tables.numbers, frozenset(tables.targets)
        new_ports = _new_ports(declared, self._adopted_for)
        if not new_ports:
            self._adopted_by = tables
            return []
        adopted = self._adopt_at(new_ports, tables, facts)
        self._adopted_for = declared
        log.debug("look: %d connections from before, at newly declared ports", len(adopted))
        return adopted

    def _adopt_at(self, new_ports: Ports, tables: Tables, facts: HostFacts) -> list[Adopted]:
        unseen = self.adoption.unseen(self._unfollowed(new_ports), facts)
        ends = [_of_socket(followed_socket(one)) for one in unseen]
        live, _ = self._live(ends, _crowded(Counter(end.netns for end in ends)), facts)
        alive = [one for one, end in zip(unseen, ends, strict=True) if end.cookie in live]
        return self.adoption.adopt(alive, tables, boot_ns())

    def _unfollowed(self, ports: Ports) -> list[Connection]:
        """Connections to these ports, without those that had a row before sockets were listed."""
        return self.listening.inventory.connections(ports, self.flows.sockets())

    def _sweep(self, facts: HostFacts) -> None:
        if self.clock() - self._swept_s < self._swept_each * self.look_s:
            return
        self._swept_s = self.clock()
        before_ns = boot_ns()
        crowded = _crowded(self.flows.per_namespace())
        few = (_of_row(flow) for flow in self.flows.rows_outside(crowded))
        live, looked_at = self._live(few, crowded, facts)
        closed = self.flows.sweep(live, looked_at, before_ns)
        if closed:
            log.debug("look: %d flows were closed without a callback", closed)
        self._swept_each = OVERWRITTEN_SWEPT_EACH if closed else SWEPT_EACH

    def _live(
        self, ends: Iterable[_End], crowded: frozenset[int], facts: HostFacts
    ) -> tuple[frozenset[int], frozenset[int]]:
        """(cookies of the live sockets, cookies of the namespaces looked at).

        Looks only into namespaces that an end of a flow is in, and into crowded ones, whose ends need not be
        listed."""
        by_netns: dict[int, list[_End]] = {}
        for end in ends:
            if end.netns not in crowded:
                by_netns.setdefault(end.netns, []).append(end)
        wanted = crowded | by_netns.keys()
        if not wanted:
            return frozenset(), frozenset()
        there = [one for one in (self.namespaces.own(), *facts.namespaces) if one.cookie in wanted]
        found = in_each(there, lambda one: (one.cookie, _live_in(one, by_netns.get(one.cookie))))
        return frozenset().union(*(live for _, live in found)), frozenset(cookie for cookie, _ in found)


def _new_ports(now: _Places, before: _Places) -> Ports:
    """Ports that are at new places. Numbers stand for other ports in each policy. If a number has changed,
    its ports count as new, which costs one look."""
    moved = set(now[0]) - set(before[0])
    numbers = {key.ports for key in now[1] - before[1]}
    return Ports.of(one for one in now[0] if one in moved or one.number in numbers)


@dataclass(frozen=True, slots=True)
class _End:
    """A socket with a peer, as a row has it."""

    netns: int
    cookie: int
    local: End
    remote: End


def _of_row(flow: Flow) -> _End:
    return _End(flow.netns, flow.cookie, *ends_of(flow))


def _of_socket(one: Socket) -> _End:
    return _End(one.netns, one.cookie, (one.local, one.local_port), (one.remote, one.remote_port))


def _crowded(sockets: Mapping[int, int]) -> frozenset[int]:
    """Namespaces with too many sockets to query one by one."""
    return frozenset(netns for netns, count in sockets.items() if count > ONE_BY_ONE)


def _live_in(namespace: Namespace, ends: Sequence[_End] | None) -> set[int]:
    """Cookies of the live sockets. `ends` is None if there are too many to query.

    A socket not found by its addresses may have other addresses by now; only a list of all sockets has it."""
    with SocketDiag(namespace.cookie) as diag:
        if ends is not None:
            live = {one.cookie for one in ends if diag.has(one.cookie, one.local, one.remote)}
            if len(live) == len(ends):
                return live
        return diag.cookies()
