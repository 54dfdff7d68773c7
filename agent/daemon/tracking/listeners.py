"""Listeners of this host, judged by the policy."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Container, Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial

from agent.daemon.tracking.listener_owners import ListenerOwners, Served, place_of, strange
from agent.daemon.tracking.listener_rows import Seen
from agent.daemon.tracking.served_places import Place, ServedPlaces
from agent.daemon.tracking.tally import Tally, keep_newest
from agent.export.agent_port import JudgedListener
from agent.model import (
    INIT,
    Address,
    HostFacts,
    Listener,
    ListenerState,
    PortClass,
    Process,
    Protocol,
    Target,
)
from agent.observe.catalog import well_known
from agent.observe.inventory import Inventory
from agent.observe.proc import ProcReader
from agent.policy.decision.declarations import declaration_of
from agent.policy.decision.listeners import facts_judged_by, judge_listener, opens_for_others
from agent.policy.decision.owners import could_be_owner
from agent.policy.decision.unserved import Unserved, unserved
from agent.policy.tables.ids import Ids
from agent.policy.terms.ports import Ports
from agent.policy.values import Policy, UndeclaredListeners

log = logging.getLogger(__name__)

REMEMBERED = 4096
"""Limit for sockets whose listen() caller the kernel reported."""

FINDINGS = (ListenerState.UNDECLARED, ListenerState.OWNER_MISMATCH, ListenerState.EXPOSED)
"""States that emit an event; owner_unknown is only listed."""

_Finding = tuple[int, ListenerState]


@dataclass(frozen=True, slots=True)
class _Examined:
    """What was found of a listener: the last four, from the others."""

    found: Listener
    place: bytes
    row: bytes | None
    """Of the place, in the kernel's tables."""
    heard: Process | None
    judged: JudgedListener
    owner: Process | None
    """The process that serves it."""
    served: Served | None
    """Set if it is one of TCP at a declared port."""
    could_serve: bool
    """It is at a declared port, or may accept for any."""


@dataclass(slots=True)
class Listening:
    """Looks at the listeners repeatedly. A `new` violation is reported once for each socket."""

    inventory: Inventory
    reader: ProcReader
    owners: ListenerOwners
    ids: Ids
    violations: Tally[tuple[str, str, str]] = field(default_factory=Tally)
    """Counts by (service, port class, reason)."""
    unserved: list[Unserved] = field(default_factory=list)
    """Declared ports without a listener at the last look."""
    _looked: list[_Examined] = field(default_factory=list)
    _told: set[_Finding] = field(default_factory=set)
    _places: ServedPlaces = field(default_factory=ServedPlaces)
    _by: tuple[Policy | None, object] | None = None
    _unserved_of: tuple[object, ...] | None = None
    """What the unserved ports were found from."""
    _news: bool = False
    """The kernel has reported a listener since the places were noted."""
    _exact: dict[tuple[int, int], Process] = field(default_factory=dict)
    """Processes as the kernel reported them, by pid and start. Valid for one look."""
    _heard: dict[int, Process] = field(default_factory=dict)
    """The process that called listen(), by the listening socket's cookie."""

    def look(self, policy: Policy | None, facts: HostFacts) -> list[tuple[JudgedListener, ListenerState]]:
        """Read and judge every listener. Returns the findings that the last look did not have."""
        known, declared = self.owners.known(), policy.ports if policy else Ports()
        self._exact.clear()
        news, self._news = self._news, False
        found = self.inventory.listeners(self._heard.copy(), facts.namespaces)
        rows = self.owners.rows.now()
        before = self._examined_by((policy, facts_judged_by(facts, _cgroups(found))))
        examine = partial(self._examine, policy=policy, facts=facts, declared=declared)
        looked = [examine(one, before.get(one.cookie), rows) for one in found if not _is_ours(one)]
        served = [one.served for one in looked if one.served]
        self.owners.note(served, known, rows)
        is_new, self._looked = news or looked != self._looked, looked
        if is_new:
            self._note_places()
        self._find_unserved(policy, facts)
        findings = {
            (one.listener.cookie, state): one
            for one in self.judged
            for state in one.states
            if state in FINDINGS
        }
        if policy is None or policy.undeclared_listeners is UndeclaredListeners.IGNORE:
            findings = {key: one for key, one in findings.items() if key[1] is not ListenerState.UNDECLARED}
        new: list[tuple[JudgedListener, ListenerState]] = [
            (one, key[1]) for key, one in findings.items() if key not in self._told
        ]
        self._told = set(findings)  # cookies are never reused, so findings that are gone may be forgotten
        for one, state in new:
            if _is_violation(state, policy):
                self.violations.add((one.service, one.port_class, state.value))
        return new

    @property
    def judged(self) -> list[JudgedListener]:
        """The listeners of the last look."""
        return [one.judged for one in self._looked]

    def _examined_by(self, by: tuple[Policy | None, object]) -> dict[int, _Examined]:
        """What was found by the same policy and facts, by cookie. One user can have 20,000 listeners, so an
        unchanged one is not examined again."""
        if self._by is not None and self._by[0] is by[0] and self._by[1] == by[1]:
            return {one.found.cookie: one for one in self._looked}
        self._by = by
        return {}

    def _examine(
        self,
        one: Listener,
        before: _Examined | None,
        rows: Mapping[bytes, Seen],
        *,
        policy: Policy | None,
        facts: HostFacts,
        declared: Container[int],
    ) -> _Examined:
        heard = self._heard.get(one.cookie)
        place = before.place if before and before.found is one else place_of(one)
        seen = rows.get(place)
        row = seen.raw if seen else None
        same = before is not None and (before.found is one or before.found == one)
        if before and same and before.row == row and before.heard is heard:
            return before
        is_declared = one.port in declared
        listener = self._activated(_owner_first(one, policy, facts), seen)
        if is_declared and one.protocol is Protocol.TCP and strange(seen):
            # A process can hide its descriptor in a thread with its own table, in io_uring, or in a message
            # to itself. Only a service's port can have a stranger.
            listener = replace(listener, strange=True)
        if before and before.judged.listener == listener:
            judged = before.judged
        else:
            judged = _judged(listener, policy, facts)
        owner = self._serving(listener)
        served = None
        if is_declared and one.protocol is Protocol.TCP:
            served = self._as_served(judged, place, owner, policy)
        return _Examined(one, place, row, heard, judged, owner, served, is_declared or one.transparent)

    def _find_unserved(self, policy: Policy | None, facts: HostFacts) -> None:
        seen = {one.cookie for one in facts.namespaces}
        if self.inventory.sees_own():
            seen.add(facts.host_netns)
        near = [one.judged.listener for one in self._looked if one.could_serve]
        found_from = (*(self._by or ()), seen, near)
        if found_from != self._unserved_of:
            self._unserved_of = found_from
            self.unserved = unserved(policy, near, facts, seen) if policy else []

    def _note_places(self) -> None:
        serving: list[tuple[Place, Process | None]] = []
        sharing: dict[Place, list[Process]] = {}
        for one in self._looked:
            listener, owner = one.judged.listener, one.owner
            place = (listener.netns, listener.port, listener.address)
            serving.append((place, owner))
            if owner is not None and listener.protocol is Protocol.TCP:
                sharing.setdefault(place, []).append(owner)
        shared = {place: found for place, found in sharing.items() if len(found) > 1 and len(set(found)) > 1}
        self._places.looked(serving, shared)

    def _activated(self, listener: Listener, seen: Seen | None) -> Listener:
        """Set `activated`: a socket that pid 1 or a socket unit's process opened may be meant for another
        service."""
        known = listener.owners or ((listener.opener,) if listener.opener else ())
        if not any(opens_for_others(process) for process in known):
            return listener
        if not self.reader.sees_initial_pids():
            return listener
        return replace(listener, activated=self.owners.activated(listener, seen))

    def _as_served(
        self, one: JudgedListener, place: bytes, owner: Process | None, policy: Policy | None
    ) -> Served:
        service = policy.services.get(one.service) if policy else None
        owned = 0
        if service and service.owner:
            owned = self.ids.target(Target(one.service, PortClass(one.port_class)))
        stranger = ListenerState.OWNER_MISMATCH in one.states
        return Served(one.listener, place, owner, owned if stranger else 0, owned)

    def heard(self, cookie: int, netns: int, port: int, address: Address, owner: Process) -> None:
        """Store the owner that the kernel reports at listen(), before any process can connect and before the
        next look."""
        self._places.heard((netns, port, address), owner)
        self._news = True
        keep_newest(self._heard, cookie, owner, REMEMBERED)

    def _serving(self, listener: Listener) -> Process | None:
        """The serving process, with the start that the kernel reported, if any: /proc rounds it to a tick,
        and events are joined by it."""
        owner = serving_process(listener)
        heard = self._places.at((listener.netns, listener.port, listener.address))
        if owner is None or heard is None or heard.pid != owner.pid:
            return owner
        if not self.reader.same_process(owner.start_boot_ns, heard.start_boot_ns):
            return owner
        key = owner.pid, heard.start_boot_ns
        if key not in self._exact:
            self._exact[key] = replace(owner, start_boot_ns=heard.start_boot_ns)
        return self._exact[key]

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        """See ServedPlaces.owner_of."""
        return self._places.owner_of(netns, port, address)

    def counts(self) -> Mapping[tuple[str, str, ListenerState], int]:
        """Number of listeners by (service or "", bind, state)."""
        return Counter((one.service, one.bind, state) for one in self.judged for state in one.states or ())

    def exposures(self) -> Mapping[Target, int]:
        return Counter(
            Target(one.service, PortClass(one.port_class))
            for one in self.judged
            if ListenerState.EXPOSED in one.states
        )


def _cgroups(listeners: Iterable[Listener]) -> set[str]:
    """The cgroups of all processes that hold one, or opened it."""
    holders = {process.cgroup for one in listeners for process in one.owners}
    return holders | {one.opener.cgroup for one in listeners if one.opener}


def _owner_first(listener: Listener, policy: Policy | None, facts: HostFacts) -> Listener:
    """Put the holder that the policy names as owner first: the oldest holder may be a supervisor."""
    declared = declaration_of(policy, listener, facts) if policy and len(listener.owners) > 1 else None
    if declared is None or not declared[0].owner:
        return listener
    selectors = declared[0].owners_there
    owners = sorted(listener.owners, key=lambda process: not could_be_owner(selectors, process, facts))
    return replace(listener, owners=tuple(owners))


def serving_process(listener: Listener) -> Process | None:
    """The holder that serves: an init process that only passed the socket on does not count."""
    serving = [owner for owner in listener.owners if owner.pid != INIT]
    return next(iter(serving or listener.owners), listener.opener)


def _is_ours(listener: Listener) -> bool:
    return any(owner.pid == os.getpid() for owner in listener.owners)


def _judged(listener: Listener, policy: Policy | None, facts: HostFacts) -> JudgedListener:
    judgement = judge_listener(policy, listener, facts)
    entry = well_known(listener.protocol, listener.port)
    return JudgedListener(
        listener=listener,
        service=judgement.service,
        port_class=judgement.port_class,
        states=judgement.states,
        bind=judgement.bind,
        explanation=judgement.explanation,
        catalog=f"{entry.name}: {entry.why}" if entry else "",
    )


def _is_violation(state: ListenerState, policy: Policy | None) -> bool:
    if state is ListenerState.UNDECLARED:
        return policy is not None and policy.undeclared_listeners is UndeclaredListeners.VIOLATION
    return True
