"""The answer of GET /v1/status: the daemon fills it, commands read it, docs/status.md describes each key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from agent.export.licenses import LicensesFields


class NotReady(TypedDict):
    reason: str
    since: str | None
    """None: it has not been ready yet."""


class Scope(TypedDict):
    cgroup: str
    namespaces: list[str] | str
    """Paths, or `all`."""
    interfaces: list[str]


class Hook(TypedDict):
    hook: str
    rung: str
    attached_to: str
    """Empty: nowhere."""
    note: str


class Gate(TypedDict):
    gate: str
    attached_to: str
    note: str


class Kernel(TypedDict):
    release: str
    bcc: str


class NotCovered(TypedDict):
    what: str
    follows: str


class PolicyStatus(TypedDict):
    files: list[str]
    generation: int
    sha256: str
    loaded_at: str | None
    targets: int
    grants: int
    warnings: list[str]
    last_error: str
    is_last_good: bool
    reload_failures: int


UnservedPort = TypedDict("UnservedPort", {"service": str, "class": str, "ports": str, "rule": str})


class ContainersStatus(TypedDict):
    state: Mapping[str, str]
    cri: Mapping[str, str]
    unnamed: int


class MapStatus(TypedDict):
    entries: int
    capacity: int


class FlowCounts(TypedDict):
    open: int
    opened: int
    closed: int
    closed_by_reconciliation: int


class Status(TypedDict):
    version: str
    ready: bool
    not_ready: NotReady | None
    troubles: Mapping[str, str]
    pid: int
    uptime_s: float
    mode: str
    listen: str
    scope: Scope
    pins: str
    hooks: Sequence[Hook]
    gates: Sequence[Gate]
    programs: Sequence[str]
    kernel: Kernel
    not_covered: Sequence[NotCovered]
    policy: PolicyStatus
    licenses: LicensesFields
    unserved: Sequence[UnservedPort]
    containers: ContainersStatus
    losses: Mapping[str, int]
    maps: Mapping[str, MapStatus]
    flows: FlowCounts
    memory_mb: float
