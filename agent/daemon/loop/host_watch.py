"""Looks at the host every few seconds, and at once on request."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.policy_sync.host_facts import Host
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.listener_reports import ListenerReports
from agent.daemon.reporting.reporter import Reporter
from agent.daemon.tracking.reconcile import HostFollower
from agent.daemon.tracking.usage import Usage
from agent.failures import failures_told

CONTAINER_STARTS_S = 10.0
"""For this many seconds after a container's cgroup appears, look up its name and network at once; afterwards
only during reconcile."""


@dataclass(frozen=True, slots=True, eq=False)
class HostWatch:
    keeper: PolicyKeeper
    host: Host
    follower: HostFollower
    usage: Usage
    cutter: FlowCutter
    reporter: Reporter
    listener_reports: ListenerReports
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    """Set to request a look now."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while the tables are updated to the host or to the policy's files."""

    async def look(self) -> None:
        async with self.busy:
            await asyncio.to_thread(self.follower.follow)
        findings = await asyncio.to_thread(self.follower.look)
        for one in findings.adopted:
            self.usage.found(one.target, one.flow.verdict.decision, one.flow.consumer)
        if findings.adopted:
            self.cutter.look_again()  # the earlier policy may have judged them
        self.listener_reports.found(findings.listeners)
        self.reporter.adopted(findings.adopted)

    async def leave_home(self) -> None:
        """React to the end of a container that a service ran in: the next container may have its addresses
        already."""
        async with self.busy:
            with failures_told():
                await asyncio.to_thread(self.keeper.follow_host)

    async def follow_containers(self) -> None:
        self.keeper.name_containers(CONTAINER_STARTS_S)
        if self.keeper.awaits_home(CONTAINER_STARTS_S):
            self.wake.set()

    async def follow_links(self) -> None:
        if await asyncio.to_thread(self.host.links_switched):
            self.wake.set()
