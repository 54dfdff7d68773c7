"""A look at the host every few seconds, and at once where something asks for it."""

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
"""So long after its cgroup appeared, a container's name and network are looked for at once; later, with all
the rest."""


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
    """Set: look now."""
    busy: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held while what is judged by follows the host, or the policy's files."""

    async def look(self) -> None:
        async with self.busy:
            await asyncio.to_thread(self.follower.follow)
        findings = await asyncio.to_thread(self.follower.look)
        for one in findings.adopted:
            self.usage.found(one.target, one.flow.verdict.decision, one.flow.consumer)
        if findings.adopted:
            self.cutter.look_again()  # they may have been judged by the policy of before
        self.listener_reports.found(findings.listeners)
        self.reporter.adopted(findings.adopted)

    async def leave_home(self) -> None:
        """A container that a service is at has ended: the next one may have its addresses already."""
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
