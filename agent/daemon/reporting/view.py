"""The daemon as the exporters see it (agent.export.agent_port.Agent). Each call is forwarded to the part that
has the answer."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.licenses import LicenseReports, warnings_now
from agent.daemon.reporting.snapshot import Snapshots
from agent.daemon.reporting.status import StatusPage
from agent.daemon.reporting.traffic_lists import busiest_acceptors, busiest_edges
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.listeners import Listening
from agent.errors import shown
from agent.export.agent_port import Caller, JudgedListener, ModeRequest, Snapshot
from agent.export.event_log import EventLog
from agent.export.events import target_fields
from agent.export.status import Status
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.model import Flow, Target
from agent.policy.terms.ports import Ports

EDGES_KEPT = 4096
"""As many edges as the kernel's map holds."""


class Reloads(Protocol):
    """The part that puts the policy's files in force, as the exporters need it."""

    async def reload(self) -> None:
        """Reload the policy now. Raises PolicyErrors; the policy in force then stays."""


@dataclass(frozen=True, slots=True)
class View:
    """The daemon as the exporters see it. It forwards each call to the part that has the answer."""

    keeper: PolicyKeeper
    counters: Counters
    names: Names
    flow_table: FlowTable
    listening: Listening
    event_log: EventLog
    mode_switch: ModeSwitch
    snapshots: Snapshots
    status_page: StatusPage
    reloads: Reloads
    license_reports: LicenseReports

    def why_not_ready(self) -> str:
        return self.status_page.troubles.why_not_ready()

    def snapshot(self) -> Snapshot:
        return self.snapshots.take()

    def status(self) -> Status:
        return self.status_page.now()

    def licenses(self) -> dict[str, Any]:
        return self.license_reports.now().with_extensions()

    def flows(self) -> Iterable[tuple[Target, Flow]]:
        return self.flow_table.listed()

    def listeners(self) -> Sequence[JudgedListener]:
        return self.listening.judged

    def edges(self, limit: int) -> Sequence[dict[str, Any]]:
        return busiest_edges(self.counters, self.names, limit)

    def undeclared_edges(self, limit: int) -> Sequence[dict[str, Any]]:
        """Busiest edges, without those that the policy has declared since."""
        policy = self.keeper.policy
        declared = policy.ports if policy else Ports()
        return [edge for edge in self.edges(EDGES_KEPT) if edge["port"] not in declared][:limit]

    def acceptors(self) -> Sequence[dict[str, Any]]:
        return busiest_acceptors(self.counters, self.names, self.keeper.ids)

    def recent_events(self, limit: int) -> Sequence[dict[str, Any]]:
        return self.event_log.recent(limit)

    def event_cursor(self) -> int:
        return self.event_log.cursor

    def events_since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        return self.event_log.since(cursor)

    def policy(self) -> dict[str, Any]:
        """The answer of /v1/policy, as docs/status.md describes it."""
        keeper, policy = self.keeper, self.keeper.policy
        return {
            "generation": keeper.generation,
            "files": list(policy.files) if policy else [],
            "sha256": keeper.sha256,
            "targets": [target_fields(target) for target in policy.targets] if policy else [],
            "principals": sorted(policy.principals) if policy else [],
            "licenses": [
                {**one.summary(), "valid": one.in_force}
                for one in self.license_reports.now().by_id().values()
            ],
            "warnings": shown(warnings_now(keeper)),
        }

    def modes(self) -> dict[str, Any]:
        return self.mode_switch.listed()

    def mode_preview(self, request: ModeRequest) -> dict[str, Any]:
        return self.mode_switch.preview(request)

    async def set_mode(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        return await self.mode_switch.switch(request, caller)

    async def reload(self) -> dict[str, Any]:
        await self.reloads.reload()
        return {"generation": self.keeper.generation, "warnings": shown(warnings_now(self.keeper))}
