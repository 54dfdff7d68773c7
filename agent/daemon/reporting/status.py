"""The answer of /v1/status, gathered from the parts."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import dataclass, field
from pathlib import Path

import agent
from agent.config import Settings
from agent.daemon.enforcement.gates import Gates
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.coverage import not_covered
from agent.daemon.reporting.licenses import LicenseReports, warnings_now
from agent.daemon.reporting.snapshot import Snapshots
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.tracking.listeners import Listening
from agent.errors import shown
from agent.export.events import now_text
from agent.export.status import (
    ContainersStatus,
    FlowCounts,
    Hook,
    NotReady,
    PolicyStatus,
    Scope,
    Status,
    UnservedPort,
)
from agent.kernel.attach import other_programs
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.model import Mode
from agent.observe.containers import Containers

BEHIND = {
    "connect": "a destination that is changed there is judged by where it leads",
    "flow": "where it overwrites the callbacks licet asks for, a close may be found by reconciliation only",
}
"""The consequence of another tool's program behind ours, by hook."""


@dataclass(slots=True)
class StatusPage:
    """Gathers the answer of /v1/status."""

    settings: Settings
    manifest: Manifest
    pins: Pins
    keeper: PolicyKeeper
    counters: Counters
    listening: Listening
    containers: Containers
    gates: Gates
    troubles: Troubles
    snapshots: Snapshots
    licenses: LicenseReports
    public_address: str = ""
    """HOST:PORT of /metrics, once it is open."""
    _started_s: float = field(default_factory=time.monotonic)

    def now(self) -> Status:
        """The answer, as docs/status.md describes it."""
        snapshots = self.snapshots
        return {
            "version": agent.__version__,
            "ready": not self.troubles.why_not_ready(),
            "not_ready": self._not_ready(),
            "troubles": {cause: why for cause, why in self.troubles.now().items() if why},
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "mode": (Mode.ENFORCE if any(snapshots.enforcing().values()) else Mode.OBSERVE).value,
            "listen": self.public_address,
            "scope": self._scope(),
            "pins": str(self.pins.base),
            "hooks": self._hooks(),
            "gates": self.gates.status(),
            "programs": self.pins.programs(),
            "kernel": {"release": os.uname().release, "bcc": self.manifest.bcc},
            "not_covered": not_covered(self.gates.missing),
            "policy": self._policy(),
            "licenses": self.licenses.now().fields(),
            "unserved": self._unserved(),
            "containers": self._containers(),
            "losses": snapshots.losses(),
            "maps": {
                name: {"entries": use.entries, "capacity": use.capacity}
                for name, use in snapshots.maps().items()
            },
            "flows": self._flows(),
            "memory_mb": round(memory_mb(), 1),
        }

    def _not_ready(self) -> NotReady | None:
        why = self.troubles.why_not_ready()
        return {"reason": why, "since": _time_or_none(self.troubles.not_ready_since())} if why else None

    def _scope(self) -> Scope:
        scope = self.settings.scope
        return {
            "cgroup": scope.cgroup,
            "namespaces": list(scope.namespaces or ()) or "all",
            "interfaces": list(scope.interfaces),
        }

    def _policy(self) -> PolicyStatus:
        keeper, policy = self.keeper, self.keeper.policy
        return {
            "files": list(policy.files) if policy else [],
            "generation": keeper.generation,
            "sha256": keeper.sha256,
            "loaded_at": _time_or_none(keeper.loaded_unix_s or None),
            "targets": len(policy.targets) if policy else 0,
            "grants": len(keeper.compiled.tables.grants) if keeper.compiled else 0,
            "warnings": shown(warnings_now(keeper)),
            "last_error": keeper.last_error,
            "is_last_good": keeper.is_last_good,
            "reload_failures": keeper.failures,
        }

    def _unserved(self) -> list[UnservedPort]:
        return [
            {
                "service": one.target.service,
                "class": one.target.port_class.value,
                "ports": str(one.port),
                "rule": str(one.port.place),
            }
            for one in self.listening.unserved
        ]

    def _containers(self) -> ContainersStatus:
        return {
            "state": self.containers.roots.found(),
            "cri": self.containers.cri.about(),
            "unnamed": self.keeper.unnamed,
        }

    def _flows(self) -> FlowCounts:
        named = self.keeper.ids.targets
        flows = self.counters.opened_closed(named).values()
        return {
            "open": sum(self.snapshots.active().values()),
            "opened": sum(opened for opened, _ in flows),
            "closed": sum(closed for _, closed in flows),
            "closed_by_reconciliation": self.counters.closed_unseen(named),
        }

    def _hooks(self) -> list[Hook]:
        refused = "; ".join(f"{rung}: {why}" for rung, why in self.manifest.refused_rungs.items())
        notes = {"accept": refused, **self._neighbours()}
        if self.manifest.hooks.get("accept") == "none":
            notes["accept"] += "; the process that accepts is not named (the owner of the port is)"
        return [
            *(
                Hook(
                    hook=hook,
                    rung=rung,
                    attached_to=self.manifest.cgroup if rung.endswith("-link") else "host",
                    note=notes.get(hook, ""),
                )
                for hook, rung in self.manifest.hooks.items()
            ),
            *self.gates.datagrams.status(),
        ]

    def _neighbours(self) -> dict[str, str]:
        cgroup, notes = Path(self.manifest.cgroup), {}
        for hook, follows in BEHIND.items():
            if others := other_programs.behind(self.pins, cgroup, hook):
                notes[hook] = f"runs behind: {', '.join(others)}; {follows}"
        return notes


def _time_or_none(unix_s: float | None) -> str | None:
    return None if unix_s is None else now_text(unix_s)


def memory_mb() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
