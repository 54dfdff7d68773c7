"""What the exporters show, as values: the daemon fills these, metrics, API and commands read them.

Everything here is a snapshot. Nothing in export/ reads a map or /proc itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.model import Decision, Flow, Listener, ListenerState, Mode, Origin, Target

"""The places that can refuse."""
TROUBLES = ("policy", "policy_watch", "state", "pins", "clock", "late", "unanswered")
"""What can be wrong with an agent that runs.
- policy: the files were refused at the start, and the last good policy is in force; or the host keeps them
  from being put in force.
- policy_watch: changed files are found late.
- state: paths.state cannot be written.
- pins: what is attached to the kernel is not this agent's.
- clock: the wall clock was set back.
- late: what is done again and again does not come to its end.
- unanswered: processes or files do not answer."""
NOT_READY = frozenset({"state", "pins", "late"})
"""Those that make it not ready."""


@dataclass(frozen=True, slots=True)
class LicenseState:
    id: str
    expires_unix_s: float | None
    """None: it never expires."""
    valid: bool


@dataclass(frozen=True, slots=True)
class ProgramCost:
    """Run-time statistics of one BPF program; there only while statistics are on."""

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
    """All that /metrics shows, at one instant. Counters only grow while the pins live."""

    version: str
    targets: Sequence[Target] = ()
    """Every target of the policy: its series exist from the start, at zero."""
    refused: Mapping[tuple[Target, str], int] = field(default_factory=dict)
    """By gate."""
    connections: Mapping[tuple[Target, Origin, Decision], int] = field(default_factory=dict)
    violations: Mapping[tuple[Target, str], int] = field(default_factory=dict)
    """Denied attempts, by reason (lower case); those of listeners are in `listener_violations`."""
    unresolved: Mapping[tuple[Target, Decision], int] = field(default_factory=dict)
    violations_by_consumer: Mapping[tuple[str, str], int] = field(default_factory=dict)
    """By (service, consumer name), already folded to at most 100 consumers and `other`."""
    active: Mapping[Target, int] = field(default_factory=dict)
    opened: Mapping[Target, int] = field(default_factory=dict)
    closed: Mapping[Target, int] = field(default_factory=dict)
    unprotected: Mapping[str, int] = field(default_factory=dict)
    """By direction: outbound, inbound."""
    listener_violations: Mapping[tuple[str, str, str], int] = field(default_factory=dict)
    """By (service, port class, reason); service and class are empty for an undeclared one."""
    listeners: Mapping[tuple[str, str, ListenerState], int] = field(default_factory=dict)
    """By (service or "", bind, state); bind is loopback, private, public or any."""
    exposures: Mapping[Target, int] = field(default_factory=dict)
    unserved: Mapping[Target, int] = field(default_factory=dict)
    """Declared ports, or ranges, that no listener here serves."""
    licenses: Sequence[LicenseState] = ()
    enforcing: Mapping[Target, bool] = field(default_factory=dict)
    enforcing_wanted: Mapping[Target, bool] = field(default_factory=dict)
    """By the mode that holds, whether or not a gate could be attached."""
    mode_overrides: Sequence[ModeOverride] = ()
    policy_generation: int = 0
    policy_sha256: str = ""
    """Of its files; empty without a policy."""
    policy_reload_failures: int = 0
    policy_reload_ok: bool = True
    """False: what the files say now is not in force."""
    policy_loaded_unix_s: float = 0.0
    events_lost: Mapping[str, int] = field(default_factory=dict)
    """By cause, every cause there from the start at zero."""
    maps: Mapping[str, MapUse] = field(default_factory=dict)
    programs: Mapping[str, ProgramCost] = field(default_factory=dict)
    troubles: Mapping[str, str] = field(default_factory=dict)
    """By cause of TROUBLES, what is wrong; empty: nothing."""
    hooks: Mapping[str, str] = field(default_factory=dict)
    """By hook, the rung taken: e.g. {"accept": "socket-io", "connect": "cgroup-link"}."""


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
    """One sentence for the operator: what is wrong and what would mend it; empty if nothing is."""
    catalog: str = ""
    """What the port is commonly used for (catalog of well-known internal ports), if it looks internal."""


@dataclass(frozen=True, slots=True)
class Caller:
    """The process at the other end of the control socket, as the kernel names it (SO_PEERCRED)."""

    uid: int
    pid: int
    """When it connected; in the agent's own pid namespace, 0 where it has none there."""


LONGEST_S = 366 * 86400
"""Of an override that ends by itself."""


@dataclass(frozen=True, slots=True)
class ModeRequest:
    scope: str | None
    """service, service/class, or None for the whole host."""
    mode: Mode | None
    """None: take the override away."""
    for_s: float | None = None
    """Seconds until it ends by itself; None: it does not."""


class Agent(Protocol):
    """The daemon, as the HTTP API sees it. All methods answer at once, from what is known."""

    def snapshot(self) -> Snapshot: ...

    def why_not_ready(self) -> str:
        """Empty once programs are attached and a policy (or none) is in force, while nothing of NOT_READY is
        wrong."""

    def status(self) -> dict[str, Any]:
        """JSON-ready: what is attached, where, which rung, policy, losses, memory, what is missing."""

    def flows(self) -> Iterable[tuple[Target, Flow]]: ...

    def listeners(self) -> Sequence[JudgedListener]: ...

    def edges(self, limit: int) -> Sequence[dict[str, Any]]:
        """Busiest unprotected edges, most connections first, JSON-ready."""

    def acceptors(self) -> Sequence[dict[str, Any]]:
        """Which processes served how many flows of a target, most first, JSON-ready."""

    def recent_events(self, limit: int) -> Sequence[dict[str, Any]]:
        """The newest events, oldest first, as they were written to the sink."""

    def event_cursor(self) -> int:
        """Sequence number of the next event; `recent_events` after a cursor is `events_since`."""

    def events_since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """(new cursor, events from `cursor` on); those no longer kept are left out."""

    def policy(self) -> dict[str, Any]:
        """The policy in force, JSON-ready: generation, files, targets, principals, licenses, warnings."""

    def modes(self) -> dict[str, Any]:
        """JSON-ready: the mode of each target and where it comes from, overrides, gates attached."""

    def mode_preview(self, request: ModeRequest) -> dict[str, Any]:
        """JSON-ready: who of the last hour would be refused. Raises ModeError as `set_mode`."""

    async def set_mode(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        """What was changed, JSON-ready. Raises ModeError where it can't be meant, KernelError where it can't
        be done; then nothing has changed."""

    async def reload(self) -> dict[str, Any]:
        """Reload the policy now. {"generation": n, "warnings": [...]}; raises PolicyErrors."""
