"""Ends flows that lost their right, for services whose policy has `on_end: cut`."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from agent.daemon.enforcement.failsafe import Failsafe
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.consumers import local_consumer
from agent.daemon.tracking.flows import FlowTable
from agent.enforce.sock_destroy import CannotDestroy, Cutter, Established
from agent.enforce.sock_disconnect import disconnect, processes
from agent.kernel.tables.encode_rows import ends_of
from agent.model import (
    Consumer,
    Decision,
    Flow,
    Origin,
    RemoteConsumer,
    Target,
)
from agent.observe.netns import Namespaces
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide
from agent.policy.tables.shape import NO_BOOT_NS, Tables
from agent.system.boottime import boot_ns
from agent.system.netns import NamespaceGone, run_in_namespace

UNDER_WAY_NS = 1_000_000_000


@dataclass(frozen=True, slots=True)
class Cut:
    """A flow that was ended, with the verdict that ended it."""

    target: Target
    flow: Flow


@dataclass(slots=True)
class FlowCutter:
    """Judges flows again when a deciding fact has changed, for enforced targets with `on_end: cut`."""

    keeper: PolicyKeeper
    flows: FlowTable
    attributor: Attributor
    namespaces: Namespaces
    modes: ModesInForce
    failsafe: Failsafe
    _due_ns: int = 0
    _under_way: frozenset[int] = frozenset()
    """Cookies of flows without a right that are not established yet, so they cannot be cut."""
    _again_ns: int = 0
    """Time of the next look at those flows. It is bounded, because remote hosts choose their number."""

    def look_again(self) -> None:
        """Make the next cut_due() look at every flow, because licensed rights have changed."""
        self._due_ns = 0

    def cut_due(self) -> list[Cut]:
        """End the flows that are due.

        It returns at once between two deadlines of licenses, unless look_again() was called or a connection
        was under way at the last look."""
        now_ns = boot_ns()
        policy, tables = self.keeper.policy, self.keeper.tables
        if policy is None or tables is None:
            return []
        if now_ns >= self._due_ns:
            self._due_ns = _next_end(tables, now_ns)
            flows = self.flows.rows()
        elif self._under_way and now_ns >= self._again_ns:
            flows = (flow for one in self._under_way if (flow := self.flows.row(one)))
        else:
            return []
        cutting = {
            target
            for target in policy.targets
            if policy.services[target.service].cuts and self.modes.enforces(target)
        }
        ended = list(self._unlicensed(flows, tables, cutting, now_ns)) if cutting else []
        self._under_way = frozenset(one.flow.cookie for one in ended if not one.flow.established)
        spent_ns = boot_ns() - now_ns
        self._again_ns = now_ns + max(UNDER_WAY_NS, 10 * spent_ns)
        return list(self._cut([one for one in ended if one.flow.established]))

    def _unlicensed(
        self, flows: Iterable[Flow], tables: Tables, targets: set[Target], now_ns: int
    ) -> Iterable[Cut]:
        for flow in flows:
            row = tables.rows.get(flow.target)
            if row is None or row.target not in targets or flow.port in self.failsafe.ports:
                continue
            # a process fact that only this agent lacks must not end an admitted connection
            verdict = decide(tables, row, who_is(tables, self._consumer(flow)), now_ns, lambda _: False)
            if verdict.decision is Decision.DENIED:
                yield Cut(row.target, replace(flow, verdict=replace(verdict, enforced=True)))

    def _consumer(self, flow: Flow) -> Consumer:
        if flow.consumer is None or flow.origin is Origin.REMOTE:
            return RemoteConsumer(flow.consumer_address)
        process = self.attributor.complete(flow.consumer)
        return local_consumer(process, flow.netns, name_is_trusted=not process.exe_untrusted)

    def _cut(self, ended: list[Cut]) -> Iterable[Cut]:
        """End each flow from within the namespace of the socket that is its row's key."""
        for namespace in self.namespaces.all() if ended else ():
            here = [one for one in ended if one.flow.netns == namespace.cookie]
            if not here:
                continue
            try:
                cutter = run_in_namespace(namespace, Cutter)
            except NamespaceGone:
                continue
            with cutter:
                yield from (one for one in here if end(cutter, one.flow))


def _next_end(tables: Tables, now_ns: int) -> int:
    ends = (candidate.ends_ns for row in tables.rows.values() for candidate in row.candidates)
    return min((end for end in ends if end > now_ns), default=NO_BOOT_NS)


def end(cutter: Cutter, flow: Flow) -> bool:
    """End a flow. False if it was gone already."""
    try:
        return cutter.cut(Established(flow.cookie, *ends_of(flow)))
    except CannotDestroy:
        likely = flow.acceptor or flow.owner if flow.origin is Origin.REMOTE else flow.consumer
        return disconnect(flow.cookie, [*([likely.pid] if likely else []), *processes()])
