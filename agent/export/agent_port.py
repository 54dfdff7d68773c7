"""The interface between daemon and exporters: the daemon fills these values; metrics, API and commands
read them.

All values are snapshots. No module of export/ reads a map or /proc.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.export.licenses import Licenses
from agent.export.status import Status
from agent.model import Decision, Flow, Listener, ListenerState, Mode, Origin, Target

"""The gates: programs that can refuse."""
TROUBLES = ("policy", "policy_watch", "state", "pins", "clock", "late", "unanswered", "licenses")
"""The causes of trouble in a running agent.
- policy: the policy files were refused at the start and the last good policy is in force, or the host
  prevents the files from taking effect.
- policy_watch: changes of the files are noticed late.
- state: paths.state cannot be written.
- pins: the programs attached to the kernel are not this agent's.
- clock: the wall clock and license time differ by more than five minutes.
- late: a periodic task does not complete.
- unanswered: processes or file systems do not answer.
- licenses: license documents cannot be verified, or a folder that they need cannot be read or written."""
NOT_READY = frozenset({"state", "pins", "late"})
"""The causes that make the agent not ready."""


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """Run-time statistics of one BPF program; present only while statistics are on."""

    runs: int
    run_ns: int


@dataclass(frozen=True, slots=True)
class MapUse:
    entries: int
    capacity: int


@dataclass(frozen=True, slots=True)
class ModeOverride:
    """A mode set at run time that is in force."""

    target: Target | None
    """None: the whole host."""
    mode: Mode
    since_unix_s: float


@dataclass(frozen=True, slots=True)
class Snapshot:
    """The values of /metrics at one instant. Counters only grow while the pins exist."""

    version: str
    targets: Sequence[Target] = ()
    """Every target of the policy. What a mapping by target lacks is zero."""
    refused: Mapping[tuple[Target, str], int] = field(default_factory=dict)
    """By target and gate."""
    connections: Mapping[tuple[Target, Origin, Decision], int] = field(default_factory=dict)
    violations: Mapping[tuple[Target, str], int] = field(default_factory=dict)
    """Denied attempts by target and reason (lower case). `listener_violations` counts those of listeners."""
    unresolved: Mapping[tuple[Target, Decision], int] = field(default_factory=dict)
    violations_by_consumer: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (service, consumer name), already reduced to at most 100 consumers and `other`."""
    active: Mapping[Target, int] = field(default_factory=dict)
    opened: Mapping[Target, int] = field(default_factory=dict)
    closed: Mapping[Target, int] = field(default_factory=dict)
    unprotected: Mapping[str, int] = field(default_factory=dict)
    """By direction: outbound, inbound."""
    listener_violations: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """By (service, port class, reason); service and class are empty for an undeclared listener."""
    listeners: Mapping[tuple[str, str, ListenerState], int] = field(default_factory=dict)
    """By (service or "", bind, state); bind is loopback, private, public or any."""
    exposures: Mapping[Target, int] = field(default_factory=dict)
    unserved: Mapping[Target, int] = field(default_factory=dict)
    """Declared ports, or ranges, that no listener here serves."""
    licenses: Licenses = field(default_factory=Licenses)
    license_time_offset_s: float = 0.0
    """Wall clock minus license time."""
    enforcing: Mapping[Target, bool] = field(default_factory=dict)
    enforcing_wanted: Mapping[Target, bool] = field(default_factory=dict)
    """By the mode in effect, whether or not a gate could be attached."""
    mode_overrides: Sequence[ModeOverride] = ()
    policy_generation: int = 0
    policy_sha256: str = ""
    """Hash of the policy's files; empty without a policy."""
    policy_reload_failures: int = 0
    policy_reload_ok: bool = True
    """False: the policy in force differs from the policy files."""
    policy_loaded_unix_s: float = 0.0
    events_lost: Mapping[str, int] = field(default_factory=dict)
    """By cause. Every cause is present from the start, at zero."""
    maps: Mapping[str, MapUse] = field(default_factory=dict)
    programs: Mapping[str, ProgramCost] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    """By cause of TROUBLES: what is wrong; an empty text: nothing."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """By hook: the attach method (rung), e.g. {"accept": "socket-io", "connect": "cgroup-link"}."""


@dataclass(frozen=True, slots=True)
class JudgedListener:
    listener: Listener
    service: str
    """Empty where no service declares the port."""
    port_class: str
    states: tuple[ListenerState, ...]
    bind: str
    """loopback, private, public or any: how wide it listens."""
    explanation: str
    """One sentence for the operator: what is wrong and how to correct it; empty if nothing is wrong."""
    catalog: str = ""
    """The common use of the port, from the catalog of well-known internal ports; empty if the port is not
    in it."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of the control socket, as the kernel names it (SO_PEERCRED)."""

    uid: int
    pid: int
    """The pid at the time of connecting, in the agent's pid namespace; 0 if the process is not visible
    there."""


LONGEST_S = 366 * 86400
"""The longest time until the deadline of an override, in seconds."""


@dataclass(frozen=True, slots=True)
class ModeRequest:
    scope: str | None
    """service, service/class, or None for the whole host."""
    mode: Mode | None
    """None: reset the override."""
    for_s: float | None = None
    """Seconds until the override ends; None: it has no deadline."""


class Agent(Protocol):
    """The daemon, as the HTTP API sees it. All methods answer at once, from known state."""

    def snapshot(self) -> Snapshot: ...

    def why_not_ready(self) -> str:
        """Why the agent is not ready. Empty once programs are attached and a policy (or none) is in force,
        and no trouble of NOT_READY exists."""

    def status(self) -> Status:
        """JSON-ready: attached programs with their place and attach method (rung), policy, losses, memory,
        and what is not covered."""

    def licenses(self) -> dict[str, Any]:
        """JSON-ready: every license and revocation list, as docs/status.md describes it."""

    def flows(self) -> Iterable[tuple[Target, Flow]]: ...

    def listeners(self) -> Sequence[JudgedListener]: ...

    def edges(self, limit: int) -> Sequence[dict[str, Any]]:
        """JSON-ready: unprotected edges, those with the most connections first."""

    def acceptors(self) -> Sequence[dict[str, Any]]:
        """JSON-ready: how many flows of a target each process served, most first."""

    def recent_events(self, limit: int) -> Sequence[dict[str, Any]]:
        """The newest events as they were written to the sink, oldest first."""

    def event_cursor(self) -> int:
        """The sequence number of the next event, for `events_since`."""

    def events_since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """(new cursor, events from `cursor` on). Events that are no longer stored are left out."""

    def policy(self) -> dict[str, Any]:
        """The policy in force, JSON-ready: generation, files, targets, principals, licenses, warnings."""

    def modes(self) -> dict[str, Any]:
        """JSON-ready: the mode of each target with its source, the overrides, and the attached gates."""

    def mode_preview(self, request: ModeRequest) -> dict[str, Any]:
        """JSON-ready: which consumers of the last hour would be refused. Raises ModeError like `set_mode`."""

    async def set_mode(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        """JSON-ready: what was changed. Raises ModeError if the request names no target, and KernelError
        if the change fails. After an error, nothing has changed."""

    async def reload(self) -> dict[str, Any]:
        """Reload the policy now. {"generation": n, "warnings": [...]}; raises PolicyErrors."""
