"""The daemon as the exporters see it (agent.export.view.Agent): snapshots of what the parts know."""

from __future__ import annotations

import os
import resource
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import agent
from agent import abi
from agent.config import Settings
from agent.daemon.enforcement.gates import Gates
from agent.daemon.enforcement.mode_switch import ModeSwitch
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.license_watch import license_time
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.tracking.datagram_rows import DatagramRows
from agent.daemon.tracking.flows import FlowTable
from agent.daemon.tracking.listeners import Listening
from agent.daemon.tracking.usage import OTHER, Usage
from agent.errors import ModeError, shown
from agent.export.event_log import EventLog
from agent.export.events import now_text, target_fields
from agent.export.view import (
    Caller,
    JudgedListener,
    LicenseState,
    MapUse,
    ModeOverride,
    ModeRequest,
    ProgramCost,
    Snapshot,
)
from agent.kernel.attach import other_programs
from agent.kernel.attach.gates import LISTENER, REWRITTEN
from agent.kernel.loading.manifest import Manifest
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.model import Decision, Flow, ListenerState, Mode, Reason, Target, show_address
from agent.observe.containers import Containers
from agent.policy.validity import IN_FORCE, Term, Validity, ended, terms_of
from agent.system import libbpf

NOT_COVERED = (
    ("unix sockets", "a connection through one is neither judged nor counted"),
    ("UDP by multicast or broadcast", "what arrives so is neither judged nor counted"),
    (
        "UDP to a connected socket",
        "the kernel finds it without a hook: it goes by what was judged at its first datagram",
    ),
    ("raw and packet sockets, TUN", "what is injected there is seen only where a local server accepts it"),
    ("NAT on this host", "a rewritten connection may count at each end, and arrives judged by its address"),
    ("addresses that others can send from", "a cidr principal is whoever has the address"),
    (
        "what a container is, where no daemon runs",
        "one made meanwhile stays unresolved: denied where it enforces, unless on_unresolved is allow",
    ),
    ("network namespaces held only by a file descriptor", "their listeners are not listed"),
)
CHANGED_ON_ITS_WAY = (
    "a connect() that a load balancer's program changes",
    "sockops programs know the process from Linux 6.10 on: here it is judged by address where it arrives",
)
LISTENS_UNBIDDEN = (
    "a stranger's listener in its first moment",
    "sockops programs know cgroups from Linux 6.10 on: here it is judged at the agent's next look",
)
BEHIND = {
    "connect": "a destination that is changed there is judged by where it leads",
    "flow": "where it overwrites the callbacks licet asks for, a close may be found by reconciliation only",
}
"""By hook: what follows from another tool's program behind ours."""
_COUNTED_MAPS = ("flows", "uses", "acceptors", "edges")


@dataclass(slots=True)
class View:
    settings: Settings
    manifest: Manifest
    pins: Pins
    keeper: PolicyKeeper
    counters: Counters
    names: Names
    usage: Usage
    flow_table: FlowTable
    listening: Listening
    event_log: EventLog
    datagram_rows: DatagramRows
    containers: Containers
    troubles: Troubles
    reload_now: Callable[[], Awaitable[None]]
    mode_switch: ModeSwitch | None = None
    gates: Gates | None = None
    """None: modes can't be switched, and the policy's hold."""
    public_address: str = ""
    is_ready: bool = False
    _started_s: float = field(default_factory=time.monotonic)

    def why_not_ready(self) -> str:
        if not self.is_ready:
            return "programs are attached, the policy is not in force yet"
        return self.troubles.why_not_ready()

    def _not_ready(self) -> dict[str, str | None] | None:
        why = self.why_not_ready()
        since = self.troubles.not_ready_since() if self.is_ready else None
        return {"reason": why, "since": _time_or_none(since)} if why else None

    def snapshot(self) -> Snapshot:
        named = self.keeper.ids.targets
        targets = self.keeper.policy.targets if self.keeper.policy else ()
        connections: dict[Any, int] = {}
        violations: dict[tuple[Target, str], int] = {}
        unresolved: dict[tuple[Target, Decision], int] = {}
        for attempts in self.counters.attempts():
            target = named.get(attempts.target)
            if target is None:
                continue
            key = (target, attempts.origin, attempts.decision)
            connections[key] = connections.get(key, 0) + attempts.count
            if attempts.reason is Reason.UNRESOLVED:
                outcome = (target, attempts.decision)
                unresolved[outcome] = unresolved.get(outcome, 0) + attempts.count
            if attempts.decision is Decision.DENIED:
                reason = (target, attempts.reason.name.lower())
                violations[reason] = violations.get(reason, 0) + attempts.count
        flows = self.counters.opened_closed(named)
        opened = {named[number]: counts[0] for number, counts in flows.items()}
        closed = {named[number]: counts[1] for number, counts in flows.items()}
        return Snapshot(
            version=agent.__version__,
            targets=targets,
            connections=connections,
            violations=violations,
            unresolved=unresolved,
            listener_violations=self._listener_violations(),
            violations_by_consumer=_with_the_rest(self.usage.violations_by_consumer(), violations),
            active=self._active(),
            opened=opened,
            closed=closed,
            unprotected=self.counters.unprotected(),
            listeners=self.listening.counts(),
            exposures=self.listening.exposures(),
            unserved=Counter(one.target for one in self.listening.unserved),
            licenses=self._licenses(),
            refused=self._refused(),
            enforcing=self._enforcing(),
            enforcing_wanted=self._enforcing_wanted(),
            mode_overrides=self._overrides(),
            policy_generation=self.keeper.generation,
            policy_sha256=self.keeper.sha256,
            policy_reload_failures=self.keeper.failures,
            policy_reload_ok=not self.keeper.last_error,
            policy_loaded_unix_s=self.keeper.loaded_unix_s,
            events_lost=self._losses(),
            maps=self._maps(),
            programs=self._programs(),
            troubles=self.troubles.now(),
            hooks=self.manifest.hooks,
        )

    def _losses(self) -> dict[str, int]:
        return {**self.counters.losses(), **self.event_log.losses(), **self.datagram_rows.losses()}

    def _listener_violations(self) -> dict[tuple[str, str, str], int]:
        """Listeners, once when found, and whoever was kept from one that a stranger has."""
        found = Counter(self.listening.violations.counts())
        named = self.keeper.ids.targets
        for number, count in self.counters.misled(named).items():
            target = named[number]
            found[(target.service, target.port_class.value, ListenerState.OWNER_MISMATCH.value)] += count
        return dict(found)

    def _refused(self) -> dict[tuple[Target, str], int]:
        named = self.keeper.ids.targets
        found = self.counters.refusals(named)
        return {(named[number], gate): count for (number, gate), count in found.items()}

    def _enforcing(self) -> dict[Target, bool]:
        """Nothing is refused where no gate is attached, whatever the mode."""
        attached = self.mode_switch is None or bool(self.mode_switch.attached())
        attached = attached and not self.troubles.now()["pins"]
        return {target: attached and wanted for target, wanted in self._enforcing_wanted().items()}

    def _enforcing_wanted(self) -> dict[Target, bool]:
        policy, switch = self.keeper.policy, self.mode_switch
        if policy is None:
            return {}
        if switch is None:
            return {target: policy.mode_of(target) is Mode.ENFORCE for target in policy.targets}
        return {target: switch.enforces(target) for target in policy.targets}

    def _overrides(self) -> list[ModeOverride]:
        in_force = self.mode_switch.in_force() if self.mode_switch else ()
        return [ModeOverride(one.target, one.mode, one.since_unix_s) for one in in_force]

    def _active(self) -> dict[Target, int]:
        named = self.keeper.ids.targets
        return {named[number]: count for number, count in self.counters.active().items() if number in named}

    def _licenses(self) -> list[LicenseState]:
        return [
            LicenseState(
                term.license,
                term.window.expires_at.timestamp() if term.window.expires_at else None,
                validity in IN_FORCE,
            )
            for term, validity in self._terms()
        ]

    def _terms(self) -> list[tuple[Term, Validity]]:
        """Of each license as a whole."""
        policy, facts = self.keeper.policy, self.keeper.facts
        if policy is None or facts is None:
            return []
        now = license_time(facts)
        return [(term, term.at(now)) for term in terms_of(policy.licenses) if not term.entitlement]

    def _maps(self) -> dict[str, MapUse]:
        found = {}
        for name in _COUNTED_MAPS:
            opened = getattr(self.counters, name)
            used = sum(not (name == "flows" and abi.is_spare_flow(key)) for key in opened)
            found[name] = MapUse(used, opened.max_entries)
        return found

    def _programs(self) -> dict[str, ProgramCost]:
        if not self.settings.costs:
            return {}
        found = {}
        for name in self.pins.programs():
            fd = libbpf.open_pin(self.pins.program(name))
            try:
                info = libbpf.program_info(fd)
            finally:
                os.close(fd)
            found[name] = ProgramCost(info.run_cnt, info.run_time_ns)
        return found

    def _not_covered(self) -> tuple[tuple[str, str], ...]:
        missing = self.gates.missing if self.gates else {}
        lacking = ((REWRITTEN, CHANGED_ON_ITS_WAY), (LISTENER, LISTENS_UNBIDDEN))
        return (*NOT_COVERED, *(what for name, what in lacking if name in missing))

    def status(self) -> dict[str, Any]:
        policy = self.keeper.policy
        named = self.keeper.ids.targets
        flows = self.counters.opened_closed(named).values()
        unseen = self.counters.closed_unseen(named)
        return {
            "version": agent.__version__,
            "ready": not self.why_not_ready(),
            "not_ready": self._not_ready(),
            "troubles": {cause: why for cause, why in self.troubles.now().items() if why},
            "pid": os.getpid(),
            "uptime_s": round(time.monotonic() - self._started_s, 1),
            "mode": (Mode.ENFORCE if any(self._enforcing().values()) else Mode.OBSERVE).value,
            "listen": self.public_address,
            "scope": {
                "cgroup": self.settings.scope.cgroup,
                "namespaces": list(self.settings.scope.namespaces or ()) or "all",
                "interfaces": list(self.settings.scope.interfaces),
            },
            "pins": str(self.pins.base),
            "hooks": self._hooks(),
            "gates": self.gates.status() if self.gates else [],
            "programs": self.pins.programs(),
            "kernel": {"release": os.uname().release, "bcc": self.manifest.bcc},
            "not_covered": [{"what": what, "follows": follows} for what, follows in self._not_covered()],
            "policy": {
                "files": list(policy.files) if policy else [],
                "generation": self.keeper.generation,
                "sha256": self.keeper.sha256,
                "loaded_at": _time_or_none(self.keeper.loaded_unix_s or None),
                "targets": len(policy.targets) if policy else 0,
                "grants": len(self.keeper.compiled.grants) if self.keeper.compiled else 0,
                "warnings": shown(self._warnings()),
                "last_error": self.keeper.last_error,
                "is_last_good": self.keeper.is_last_good,
                "reload_failures": self.keeper.failures,
            },
            "unserved": [
                {**target_fields(one.target), "ports": str(one.port), "rule": str(one.port.place)}
                for one in self.listening.unserved
            ],
            "containers": {
                "state": self.containers.roots.found(),
                "cri": self.containers.cri.about(),
                "unnamed": self.keeper.unnamed,
            },
            "losses": self._losses(),
            "maps": {
                name: {"entries": use.entries, "capacity": use.capacity} for name, use in self._maps().items()
            },
            "flows": {
                "open": sum(self._active().values()),
                "opened": sum(opened for opened, _ in flows),
                "closed": sum(closed for _, closed in flows),
                "closed_by_reconciliation": unseen,
            },
            "memory_mb": round(memory_mb(), 1),
        }

    def _warnings(self) -> Sequence[object]:
        policy, facts, compiled = self.keeper.policy, self.keeper.facts, self.keeper.compiled
        past = ended(policy.licenses, license_time(facts)) if policy and facts else ()
        return (*past, *(compiled.warnings if compiled else ()))

    def _hooks(self) -> list[dict[str, str]]:
        refused = "; ".join(f"{rung}: {why}" for rung, why in self.manifest.refused_rungs.items())
        notes = {"accept": refused, **self._neighbours()}
        if self.manifest.hooks.get("accept") == "none":
            notes["accept"] += "; the process that accepts is not named (the owner of the port is)"
        return [
            *(
                {
                    "hook": hook,
                    "rung": rung,
                    "attached_to": self.manifest.cgroup if rung.endswith("-link") else "host",
                    "note": notes.get(hook, ""),
                }
                for hook, rung in self.manifest.hooks.items()
            ),
            *(self.gates.datagrams.status() if self.gates else ()),
        ]

    def _neighbours(self) -> dict[str, str]:
        cgroup, notes = Path(self.manifest.cgroup), {}
        for hook, follows in BEHIND.items():
            if others := other_programs.behind(self.pins, cgroup, hook):
                notes[hook] = f"runs behind: {', '.join(others)}; {follows}"
        return notes

    def flows(self) -> Iterable[tuple[Target, Flow]]:
        return self.flow_table.listed()

    def listeners(self) -> Sequence[JudgedListener]:
        return self.listening.judged

    def edges(self, limit: int) -> Sequence[dict[str, Any]]:
        found = []
        for key, value in self.counters.edges.items():
            raw = abi.EdgeKey.from_buffer_copy(key)
            found.append(
                {
                    "direction": abi.DIRECTIONS[raw.direction],
                    "exe": self.names[raw.exe],
                    "uid": raw.uid,
                    "peer": _peer(raw),
                    "port": raw.port,
                    "protocol": "udp" if raw.protocol == 17 else "tcp",
                    "connections": abi.U64.unpack(value)[0],
                }
            )
        return sorted(found, key=lambda edge: -edge["connections"])[:limit]

    def acceptors(self) -> Sequence[dict[str, Any]]:
        """Which processes served how many flows of a target, most first."""
        found = []
        for key, value in self.counters.acceptors.items():
            raw = abi.AcceptorKey.from_buffer_copy(key)
            target = self.keeper.ids.target_named(raw.target)
            if target is not None:
                found.append(
                    {
                        **target_fields(target),
                        "pid": raw.pid,
                        "start_boot_ns": raw.start_ns,
                        "exe": self.names[raw.exe],
                        "flows": abi.U64.unpack(value)[0],
                    }
                )
        return sorted(found, key=lambda row: -row["flows"])

    def recent_events(self, limit: int) -> Sequence[dict[str, Any]]:
        return self.event_log.recent(limit)

    def event_cursor(self) -> int:
        return self.event_log.cursor

    def events_since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        return self.event_log.since(cursor)

    def policy(self) -> dict[str, Any]:
        policy = self.keeper.policy
        return {
            "generation": self.keeper.generation,
            "files": list(policy.files) if policy else [],
            "sha256": self.keeper.sha256,
            "targets": [target_fields(target) for target in policy.targets] if policy else [],
            "principals": sorted(policy.principals) if policy else [],
            "licenses": [
                {"id": term.license, **term.fields(validity), "valid": validity in IN_FORCE}
                for term, validity in self._terms()
            ],
            "warnings": shown(self._warnings()),
        }

    def modes(self) -> dict[str, Any]:
        return self._switch().listed()

    def mode_preview(self, request: ModeRequest) -> dict[str, Any]:
        return self._switch().preview(request)

    async def set_mode(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        return await self._switch().switch(request, caller)

    def _switch(self) -> ModeSwitch:
        if self.mode_switch is None:
            raise ModeError("this agent only observes: its mode cannot be switched")
        return self.mode_switch

    async def reload(self) -> dict[str, Any]:
        await self.reload_now()
        return {"generation": self.keeper.generation, "warnings": shown(self._warnings())}


def _with_the_rest(
    by_consumer: Mapping[tuple[str, str], int], violations: Mapping[tuple[Target, str], int]
) -> dict[tuple[str, str], int]:
    """Denied attempts that no row names (a full map, connections from before the agent) are `other`, so
    that the consumers of a service add up to its violations."""
    found = dict(by_consumer)
    denied: dict[str, int] = {}
    for (target, _), count in violations.items():
        denied[target.service] = denied.get(target.service, 0) + count
    for service, count in denied.items():
        missing = count - sum(n for (name, _), n in by_consumer.items() if name == service)
        if missing > 0:
            found[service, OTHER] = found.get((service, OTHER), 0) + missing
    return found


def _time_or_none(unix_s: float | None) -> str | None:
    return None if unix_s is None else now_text(unix_s)


def _peer(edge: abi.EdgeKey) -> str:
    """An address; of inbound edges, which are aggregated by network, its /24 or /64."""
    address = edge.peer.value()
    if abi.DIRECTIONS[edge.direction] == "outbound":
        return show_address(address)
    return f"{show_address(address)}/{24 if address.ipv4_mapped else 64}"


def memory_mb() -> float:
    """Resident memory of this process, in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 1e6
