"""An agent (agent.export.agent_port.Agent) made of values, for what is built on that seam."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from agent.errors import LicetError
from agent.export.agent_port import (
    Caller,
    JudgedListener,
    MapUse,
    ModeOverride,
    ModeRequest,
    Snapshot,
)
from agent.export.event_log import EventLog
from agent.export.events import target_fields
from agent.export.licenses import License, Licenses, Revocations
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Times
from agent.model import (
    Decision,
    Flow,
    Listener,
    ListenerState,
    Mode,
    Origin,
    PortClass,
    Process,
    Protocol,
    Reason,
    Target,
    Verdict,
    to_address,
)

INTERNAL = Target("orders-db", PortClass.INTERNAL)
ADMIN = Target("orders-db", PortClass.ADMIN)

CURL = Process(
    pid=4711,
    start_boot_ns=81_000_000_000,
    comm="curl",
    exe="/usr/bin/curl",
    args=("curl", "http://127.0.0.1:5432"),
    uid=1000,
    user="ann",
    gid=1000,
    gids=(1000, 27),
    cgroup="/user.slice/user-1000.slice",
    unit="session-2.scope",
    netns=1,
)
POSTGRES = Process(
    pid=812, start_boot_ns=9_000_000_000, comm="postgres", exe="/usr/lib/postgres", uid=0, gid=0
)
DENIED = Verdict(Decision.DENIED, Reason.UNLICENSED_PRINCIPAL, target=1)

NOVEMBER, NEW_YEAR = datetime(2026, 11, 28, 12, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
FEBRUARY = datetime(2027, 2, 1, tzinfo=UTC)
OF_A_YEAR = Times(datetime(2026, 1, 1, tzinfo=UTC), NEW_YEAR, FEBRUARY)
NOW = Moment(NOVEMBER, NOVEMBER)


def signed(**changes: Any) -> License:
    """The issue's example."""
    values: dict[str, Any] = {
        "state": State.VALID,
        "id": "acme-2026",
        "serial": 3,
        "issuer": "Acme",
        "licensee": "Example Ltd",
        "product": "acme-orders",
        "kind": "production",
        "file": "acme.json",
        "rule": "acme.json",
        "signed": True,
        "verified": True,
        "key": "5f" * 32,
        "validity": State.VALID,
        "in_force": True,
        "issued_at": OF_A_YEAR.starts_at,
        "times": OF_A_YEAR,
        "next": OF_A_YEAR.next(NOW),
        "hosts": 4,
        "node_locked": True,
        "supersedes": ("acme-2025",),
        "extensions": {"order": "4711"},
    }
    return License(**(values | changes))


def unsigned(**changes: Any) -> License:
    """A license of the policy that never expires."""
    values: dict[str, Any] = {
        "state": State.VALID,
        "id": "forever",
        "product": "acme-orders",
        "rule": "/etc/licet/policy.yaml:14",
        "validity": State.VALID,
        "in_force": True,
    }
    return License(**(values | changes))


FORGED = signed(
    id="forged", file="forged.json", rule="forged.json", verified=False, key="", in_force=False,
    state=State.BAD_SIGNATURE, why="no signature verifies", next=None, extensions={},
)  # fmt: skip
REVOCATIONS = Revocations(
    "r.json", "Acme", 4, State.VALID, NOVEMBER, NEW_YEAR, verified=True, in_force=True, licenses=2, keys=1
)
LICENSES = Licenses(
    NOW,
    listed=(unsigned(), signed(), FORGED),
    revocations=(REVOCATIONS,),
    files={State.VALID: 2, State.BAD_SIGNATURE: 1},
)

SNAPSHOT = Snapshot(
    version="0.1.0",
    targets=(INTERNAL, ADMIN),
    connections={
        (INTERNAL, Origin.LOOPBACK, Decision.ALLOWED): 12,
        (INTERNAL, Origin.REMOTE, Decision.DENIED): 3,
    },
    violations={(INTERNAL, "unlicensed_principal"): 3},
    unresolved={(INTERNAL, Decision.ALLOWED): 4},
    refused={(INTERNAL, "connect"): 2, (INTERNAL, "tc"): 1},
    listener_violations={("", "", "undeclared_listener"): 2, ("orders-db", "internal", "exposed_port"): 1},
    violations_by_consumer={("orders-db", "curl"): 2, ("orders-db", "other"): 1},
    active={INTERNAL: 4},
    opened={INTERNAL: 12},
    closed={INTERNAL: 8},
    unprotected={"outbound": 70},
    listeners={("orders-db", "any", ListenerState.EXPOSED): 1, ("", "loopback", ListenerState.UNDECLARED): 2},
    exposures={INTERNAL: 1},
    unserved={ADMIN: 1},
    licenses=LICENSES,
    enforcing={INTERNAL: False, ADMIN: False},
    enforcing_wanted={INTERNAL: False, ADMIN: True},
    mode_overrides=(
        ModeOverride(None, Mode.OBSERVE, 1795000100.0),
        ModeOverride(ADMIN, Mode.ENFORCE, 1795000200.5),
    ),
    policy_generation=7,
    policy_reload_failures=1,
    policy_reload_ok=False,
    policy_loaded_unix_s=1795000000.25,
    events_lost={"ring_full": 0, "event_sink": 5},
    maps={"flows": MapUse(4, 65536)},
    hooks={"connect": "cgroup-link", "accept": "none"},
)


def flow(**changes: Any) -> Flow:
    values: dict[str, Any] = {
        "cookie": 4097,
        "target": 1,
        "consumer": CURL,
        "consumer_address": to_address("127.0.0.1"),
        "consumer_port": 40000,
        "address": to_address("127.0.0.1"),
        "port": 5432,
        "owner": POSTGRES,
        "acceptor": None,
        "verdict": DENIED,
        "origin": Origin.LOOPBACK,
        "protocol": Protocol.TCP,
        "opened_boot_ns": 90_000_000_000,
        "established": True,
    }
    return Flow(**(values | changes))


def judged_listener(**changes: Any) -> JudgedListener:
    listener = Listener(
        protocol=Protocol.TCP,
        family=2,
        address=ipaddress.IPv6Address(0xFFFF << 32),
        port=5432,
        netns=1,
        cookie=33,
        inode=44,
        v6only=False,
        owners=(POSTGRES,),
    )
    values: dict[str, Any] = {
        "listener": listener,
        "service": "orders-db",
        "port_class": "internal",
        "states": (ListenerState.DECLARED, ListenerState.EXPOSED),
        "bind": "any",
        "explanation": "listens on all addresses; listen on 127.0.0.1 instead",
        "catalog": "postgresql: database",
    }
    return JudgedListener(**(values | changes))


STATUS: Mapping[str, Any] = {
    "version": "0.1.0",
    "ready": True,
    "troubles": {},
    "pid": 900,
    "uptime_s": 3725.0,
    "mode": "observe",
    "listen": "127.0.0.1:9477",
    "scope": {"cgroup": "/", "namespaces": "all", "interfaces": []},
    "pins": "/sys/fs/bpf/licet/1",
    "hooks": [
        {"hook": "connect", "rung": "cgroup-link", "attached_to": "/sys/fs/cgroup", "note": ""},
        {"hook": "accept", "rung": "none", "attached_to": "host", "note": "fexit: not permitted"},
    ],
    "gates": [{"gate": "connect", "attached_to": "", "note": ""}],
    "programs": ["connect4", "connect6"],
    "kernel": {"release": "6.18.0", "bcc": "0.26.0"},
    "not_covered": [{"what": "unix sockets", "follows": "neither judged nor counted"}],
    "policy": {
        "files": ["/etc/licet/policy.yaml"],
        "generation": 7,
        "loaded_at": "2026-11-18T11:06:40.250000Z",
        "targets": 2,
        "grants": 1,
        "warnings": ["policy.yaml:9: principal 'ci' matches nothing"],
        "last_error": "policy.yaml:3: unknown key 'servces'",
        "reload_failures": 1,
    },
    "licenses": LICENSES.fields(),
    "containers": {
        "state": {"docker": "/var/lib/docker/containers", "crun": ""},
        "cri": {"socket": "/run/crio/crio.sock", "runtime": "", "error": "Version: timed out"},
        "unnamed": 2,
    },
    "unserved": [
        {"service": "orders-db", "class": "admin", "ports": "9187/tcp", "rule": "policy.yaml:4"},
        *(
            {"service": f"s{n}", "class": "public", "ports": "80/tcp", "rule": "policy.yaml:5"}
            for n in range(20)
        ),
    ],
    "losses": {"ring_full": 0, "event_sink": 5},
    "maps": {"flows": {"entries": 4, "capacity": 65536}},
    "flows": {"open": 4, "opened": 12, "closed": 8, "closed_by_reconciliation": 0},
    "memory_mb": 48.5,
}


MODES: Mapping[str, Any] = {
    "targets": [
        {
            "service": "orders-db",
            "class": "internal",
            "mode": "enforce",
            "source": "override",
            "policy": "observe",
            "until": "2026-05-01T14:12:11.000000Z",
            "seconds_left": 599.5,
        },
        {
            "service": "orders-db",
            "class": "admin",
            "mode": "observe",
            "source": "policy",
            "policy": "observe",
            "until": None,
            "seconds_left": None,
        },
    ],
    "overrides": [
        {
            "scope": "orders-db/internal",
            "mode": "enforce",
            "until": "2026-05-01T14:12:11.000000Z",
            "seconds_left": 599.5,
            "since": "2026-05-01T14:02:11.000000Z",
            "uid": 0,
            "pid": 4711,
            "in_policy": True,
        }
    ],
    "gates": ["connect", "bind"],
}


@dataclass(slots=True)
class FakeAgent:
    seen: Snapshot = SNAPSHOT
    is_ready: bool = True
    flow_rows: Sequence[tuple[Target, Flow]] = field(default_factory=lambda: [(INTERNAL, flow())])
    listener_rows: Sequence[JudgedListener] = field(default_factory=lambda: [judged_listener()])
    log: EventLog = field(default_factory=lambda: EventLog("none", 100))
    fails_with: Exception | None = None
    """Raised by status(), reload() and set_mode()."""
    reloads: int = 0
    status_fields: Mapping[str, Any] = field(default_factory=lambda: STATUS)
    mode_requests: list[tuple[ModeRequest, Caller]] = field(default_factory=list)
    would_be_refused: list[dict[str, Any]] = field(default_factory=list)
    would_be_unknown: list[dict[str, Any]] = field(default_factory=list)
    known_since: str | None = None
    strangers: list[dict[str, Any]] = field(default_factory=list)
    turns_to_enforce: list[dict[str, str]] = field(default_factory=list)
    mode_answer: dict[str, Any] = field(default_factory=dict)

    def snapshot(self) -> Snapshot:
        return self.seen

    def why_not_ready(self) -> str:
        return "" if self.is_ready else "the policy is not in force yet"

    def status(self) -> dict[str, Any]:
        if self.fails_with:
            raise self.fails_with
        return dict(self.status_fields)

    def licenses(self) -> dict[str, Any]:
        return self.seen.licenses.with_extensions()

    def flows(self) -> Sequence[tuple[Target, Flow]]:
        return self.flow_rows

    def listeners(self) -> Sequence[JudgedListener]:
        return self.listener_rows

    def edges(self, limit: int) -> Sequence[dict[str, Any]]:
        return [{"exe": "/usr/bin/curl", "port": port, "connections": 9 - port} for port in range(3)][:limit]

    def acceptors(self) -> Sequence[dict[str, Any]]:
        return [{"service": "orders-db", "class": "internal", "pid": 813, "flows": 6}]

    def recent_events(self, limit: int) -> Sequence[dict[str, Any]]:
        return self.log.recent(limit)

    def event_cursor(self) -> int:
        return self.log.cursor

    def events_since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        return self.log.since(cursor)

    def policy(self) -> dict[str, Any]:
        targets = [target_fields(target) for target in (INTERNAL, ADMIN)]
        return {"generation": 7, "files": [], "licenses": [], "targets": targets}

    def modes(self) -> dict[str, Any]:
        return dict(MODES)

    def mode_preview(self, request: ModeRequest) -> dict[str, Any]:
        return {
            "scope": request.scope,
            "mode": request.mode,
            "seconds": 3600,
            "turns_to_enforce": self.turns_to_enforce,
            "known_since": self.known_since,
            "refused": self.would_be_refused,
            "unknown": self.would_be_unknown,
            "strangers": self.strangers,
        }

    async def set_mode(self, request: ModeRequest, caller: Caller) -> dict[str, Any]:
        if self.fails_with:
            raise self.fails_with
        self.mode_requests.append((request, caller))
        changed = {"scope": request.scope, "mode": request.mode, "made": [], "previous": [], "narrower": []}
        return {**changed, **MODES, **self.mode_answer}

    async def reload(self) -> dict[str, Any]:
        if isinstance(self.fails_with, LicetError):
            raise self.fails_with
        self.reloads += 1
        return {"generation": 8, "warnings": []}
