"""Who listens, judged against the policy."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from agent.daemon.listener_owners import ListenerOwners
from agent.export.view import JudgedListener
from agent.model import (
    MAPPED_PREFIX,
    Address,
    HostFacts,
    Listener,
    ListenerState,
    PortClass,
    Process,
    Protocol,
    Target,
    to_address,
)
from agent.observe.catalog import well_known
from agent.observe.inventory import Inventory
from agent.observe.proc import ProcReader
from agent.policy.listeners import declaration_of, judge_listener
from agent.policy.networks import is_per_namespace
from agent.policy.owners import could_be_owner
from agent.policy.values import Policy, UndeclaredListeners

log = logging.getLogger(__name__)

_WILDCARDS = (Address(MAPPED_PREFIX), Address(0))
_AT_LOOPBACK = dict(zip(_WILDCARDS, (to_address("127.0.0.1"), to_address("::1")), strict=True))
"""Where a connect() to an unspecified address ends (tcp_v4_connect, tcp_v6_connect in net/)."""
REMEMBERED = 4096
"""Listeners whose owner is known though they may be gone."""

_Finding = tuple[int, ListenerState]


@dataclass(slots=True)
class Listening:
    """Looks again and again; `new` violations are told once for each socket."""

    inventory: Inventory
    reader: ProcReader
    owners: ListenerOwners
    judged: list[JudgedListener] = field(default_factory=list)
    violations: Counter[tuple[str, str, str]] = field(default_factory=Counter)
    """By (service, port class, reason)."""
    _told: set[_Finding] = field(default_factory=set)
    _served: dict[tuple[int, int, Address], Process] = field(default_factory=dict)
    """By (namespace, port, address): who listened there last."""

    def look(self, policy: Policy | None, facts: HostFacts) -> list[tuple[JudgedListener, ListenerState]]:
        """Reads and judges every listener; returns what is wrong and was not so the last time."""
        known = self.owners.known()
        listeners = [
            _owner_first(one, policy, facts) for one in self.inventory.listeners() if not _is_ours(one)
        ]
        declared = _declared_ports(policy)
        tcp = [one for one in listeners if one.protocol is Protocol.TCP and one.port in declared]
        self.owners.note([(one, self._serving(one)) for one in tcp], known)
        for listener in listeners:
            self._remember(listener.netns, listener.port, listener.address, self._serving(listener))
        self.judged = [_judged(one, policy, facts) for one in listeners]
        findings = {
            (one.listener.cookie, state): one
            for one in self.judged
            for state in one.states
            if state is not ListenerState.DECLARED
        }
        if policy is None or policy.undeclared_listeners is UndeclaredListeners.IGNORE:
            findings = {key: one for key, one in findings.items() if key[1] is not ListenerState.UNDECLARED}
        new: list[tuple[JudgedListener, ListenerState]] = [
            (one, key[1]) for key, one in findings.items() if key not in self._told
        ]
        self._told = set(findings)  # cookies never repeat; what is gone may be forgotten
        for one, state in new:
            if _is_violation(state, policy):
                self.violations[(one.service, one.port_class, state.value)] += 1
        return new

    def heard(self, netns: int, port: int, address: Address, owner: Process) -> None:
        """From the kernel, at listen(): known before anybody can connect, and before the next look."""
        self._remember(netns, port, address, owner)

    def _remember(self, netns: int, port: int, address: Address, owner: Process | None) -> None:
        if owner is None:
            return
        self._served.pop((netns, port, address), None)  # the newest stand last
        self._served[(netns, port, address)] = owner
        while len(self._served) > REMEMBERED:
            self._served.pop(next(iter(self._served.copy())), None)

    def _serving(self, listener: Listener) -> Process | None:
        """With the start that the kernel told, if it did: /proc rounds it to a tick, and events are joined
        by it."""
        owner = serving_process(listener)
        heard = self._served.get((listener.netns, listener.port, listener.address))
        if owner is None or heard is None or heard.pid != owner.pid:
            return owner
        same = self.reader.same_process(owner.start_boot_ns, heard.start_boot_ns)
        return replace(owner, start_boot_ns=heard.start_boot_ns) if same else owner

    def owner_of(self, netns: int, port: int, address: Address) -> Process | None:
        """Who serves, or last served, what a consumer in `netns` calls address:port. A routable address may
        be served in another namespace; loopback never is."""
        near = [_AT_LOOPBACK.get(address, address), *_WILDCARDS]
        found = (self._served.get((netns, port, one)) for one in near)
        owner = next((one for one in found if one), None)
        if owner or is_per_namespace(address):
            return owner
        elsewhere = [
            (place != address, process)
            for (_, number, place), process in self._served.copy().items()  # another thread may be adding
            if number == port and place in near
        ]
        return min(elsewhere, key=lambda one: one[0], default=(False, None))[1]

    def counts(self) -> Mapping[tuple[str, str, ListenerState], int]:
        """By (service or "", bind, state)."""
        return Counter((one.service, one.bind, state) for one in self.judged for state in one.states or ())

    def exposures(self) -> Mapping[Target, int]:
        return Counter(
            Target(one.service, PortClass(one.port_class))
            for one in self.judged
            if ListenerState.EXPOSED in one.states
        )


def _owner_first(listener: Listener, policy: Policy | None, facts: HostFacts) -> Listener:
    """Of several that hold a socket, the one the policy says serves it: the oldest may be a supervisor."""
    declared = declaration_of(policy, listener, facts) if policy and len(listener.owners) > 1 else None
    if declared is None or not declared[0].owner:
        return listener
    selectors = declared[0].owner
    owners = sorted(listener.owners, key=lambda process: not could_be_owner(selectors, process, facts))
    return replace(listener, owners=tuple(owners))


def serving_process(listener: Listener) -> Process | None:
    """Of several that hold a socket: not the init process that only passed it on."""
    serving = [owner for owner in listener.owners if owner.pid != 1]
    return next(iter(serving or listener.owners), None)


def _declared_ports(policy: Policy | None) -> set[int]:
    services = policy.services.values() if policy else ()
    return {
        number
        for service in services
        for port in service.ports
        for number in range(port.first, port.last + 1)
    }


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
