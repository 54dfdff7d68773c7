"""Lists flows on demand, and deletes rows that no hook in the kernel will close."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterator
from dataclasses import replace
from itertools import chain

from agent import abi
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.completed_processes import CompletedProcesses
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.past_uses import PastUse
from agent.kernel.tables.columns import columns, flow_columns
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.encode_rows import tuple_key
from agent.kernel.tables.names import Names
from agent.kernel.tables.rows import ProcessesAsStored, Use, flow_of, flow_rows
from agent.model import Flow, Target
from agent.policy.tables.ids import Ids

SETTLE_NS = 5 * 1_000_000_000
"""Age below which a row is not deleted: its socket may have been made after sock_diag was read."""


_OPENED = columns(abi.Flow, "opened_ns")
_NETNS = columns(abi.Flow, "consumer.netns")
_SERVER_COOKIE = columns(abi.Flow, "server_cookie")
_AGE_AND_PLACE = columns(abi.Flow, "opened_ns", "consumer.netns", "pre_existing")


class FlowTable:
    def __init__(
        self,
        counters: Counters,
        names: Names,
        attributor: Attributor,
        ids: Ids,
        listeners: Listening,
    ) -> None:
        self._counters = counters
        self._names = names
        self._stored = ProcessesAsStored(names)
        self._attributor = attributor
        self._ids = ids
        self._listeners = listeners

    def rows(self) -> Iterator[Flow]:
        """All flows. Yields one at a time: all at once, as objects, would take more memory than the rest of
        the agent."""
        for cookie, raw in flow_rows(self._counters.flows):
            yield flow_of(cookie, raw, self._stored)

    def rows_outside(self, namespaces: Container[int]) -> Iterator[Flow]:
        """Flows that are in none of these namespaces."""
        for cookie, (netns,) in flow_columns(self._counters.flows, _NETNS):
            if netns not in namespaces and (flow := self.row(cookie)):
                yield flow

    def row(self, cookie: int) -> Flow | None:
        raw = self._counters.flows.get(abi.U64.pack(cookie))
        return flow_of(cookie, raw, self._stored) if raw else None

    def listed(self) -> Iterator[tuple[Target, Flow]]:
        """Every flow with its processes completed, oldest first, one at a time."""
        targets, processes = self._ids.targets, CompletedProcesses(self._names, self._attributor)
        for cookie in self._by_age():
            raw = self._counters.flows.get(abi.U64.pack(cookie))
            if raw is None:
                continue
            flow = flow_of(cookie, raw, processes)
            if flow.owner is None:
                owner = self._listeners.owner_of(flow.netns, flow.port, flow.address)
                flow = replace(flow, owner=owner)
            if target := targets.get(flow.target):
                yield target, flow

    def _by_age(self) -> Iterator[int]:
        """Cookies, of the oldest flow first."""
        rows = flow_columns(self._counters.flows, _OPENED)
        # one number for both: pairs would take twice the memory
        for both in sorted(opened_ns << 64 | cookie for cookie, (opened_ns,) in rows):
            yield both & (1 << 64) - 1

    def uses(self) -> Iterator[PastUse]:
        """Open connections as uses. The connections of one consumer, or one address, to one target are one
        use."""
        alike: dict[tuple[int, bytes], list[int]] = {}
        for cookie, value in flow_rows(self._counters.flows):
            raw = abi.Flow.from_buffer_copy(value)
            if raw.state == abi.FlowState.OPEN:
                who = raw.consumer if raw.consumer.pid else raw.remote
                alike.setdefault((raw.verdict.target, bytes(who)), [cookie, 0])[1] += 1
        for cookie, count in alike.values():
            found = self._counters.flows.get(abi.U64.pack(cookie))
            if found and (use := self._as_use(abi.Flow.from_buffer_copy(found), cookie, count)):
                yield use

    def _as_use(self, raw: abi.Flow, cookie: int, count: int) -> PastUse | None:
        flow = flow_of(cookie, raw, self._stored)
        target = self._ids.target_named(flow.target)
        if target is None:
            return None
        use = Use(
            key=b"",
            attempts=0,
            verdict=flow.verdict,
            origin=flow.origin,
            protocol=flow.protocol,
            consumer=flow.consumer,
            comm="",
            netns=flow.netns,
            source=flow.consumer_address,
            source_port=flow.consumer_port,
            destination=flow.address,
            port=flow.port,
            first_boot_ns=flow.opened_boot_ns,
            last_boot_ns=flow.opened_boot_ns,
            told=True,
        )
        return PastUse(
            use, target, self._attributor.complete(flow.consumer) if flow.consumer else None, count
        )

    def per_namespace(self) -> Counter[int]:
        """Number of rows by network namespace."""
        return Counter(netns for _, (netns,) in flow_columns(self._counters.flows, _NETNS))

    def sockets(self) -> frozenset[int]:
        """Cookies of all sockets of flows: those that rows are stored by, and those accepted here."""
        rows = flow_columns(self._counters.flows, _SERVER_COOKIE)
        return frozenset(chain.from_iterable((cookie, server) for cookie, (server,) in rows)) - {0}

    def sweep(self, live_cookies: frozenset[int], looked_at: frozenset[int], now_boot_ns: int) -> int:
        """Delete the rows whose socket is gone. Returns how many of these flows were established.

        Such rows belong to attempts that never sent a SYN, to flows older than the agent, and to flows whose
        close another program hid.

        `looked_at` has the cookies of the namespaces in which the live sockets were listed."""
        closed = 0
        for cookie in self._gone(live_cookies, looked_at, now_boot_ns):
            flow = self.row(cookie)
            if flow is None:
                continue
            self._forget_tuple(flow)
            if self._counters.flows.remove(abi.U64.pack(cookie)) and flow.established:
                self._counters.count_found_flows(flow.target, closed=1)
                closed += 1
        return closed

    def _gone(self, live_cookies: Container[int], looked_at: Container[int], now_boot_ns: int) -> list[int]:
        """Cookies of the rows whose socket is gone."""
        settled_ns = now_boot_ns - SETTLE_NS
        return [
            cookie
            for cookie, (opened_ns, netns, pre_existing) in flow_columns(self._counters.flows, _AGE_AND_PLACE)
            # a flow older than the agent was in sock_diag when it got its row
            if cookie not in live_cookies and netns in looked_at and (pre_existing or opened_ns <= settled_ns)
        ]

    def _forget_tuple(self, flow: Flow) -> None:
        """Delete the flow's tuple, unless it belongs to another socket: another namespace may have the same
        addresses."""
        key = tuple_key(flow)
        if self._counters.tuples.get(key) == abi.U64.pack(flow.cookie):
            self._counters.tuples.remove(key)
