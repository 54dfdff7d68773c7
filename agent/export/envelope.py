"""The fields that every event carries beside its own, so that lines of many hosts can be compared."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from agent.export.events import Event

SCHEMA = 1
"""Incremented when a field of an event changes its name, form or meaning; unchanged by a new field."""

_SEVERITIES = {
    "violation": "warning",
    "listener": "warning",
    "exposure": "warning",
    "cut": "warning",
    "policy_error": "error",
}
_PROCESSES = ("consumer", "owner", "acceptor")


class PolicyInForce(Protocol):
    """As it is whenever it is asked."""

    @property
    def generation(self) -> int: ...

    @property
    def sha256(self) -> str:
        """Hash of the policy's files; empty without a policy."""


@dataclass(frozen=True, slots=True)
class Envelope:
    """The fields that every event carries beside its own."""

    host: str
    policy: PolicyInForce
    args: bool
    """Whether events include the arguments of processes."""

    def around(self, event: Event) -> Event:
        """`event` with `schema`, `severity`, `host` and `policy`. Arguments of processes are removed
        unless `args` is set."""
        policy = self.policy
        head = {
            "type": event["type"],
            "time": event["time"],
            "schema": SCHEMA,
            "severity": severity(event),
            "host": self.host,
            "policy": {"generation": policy.generation, "sha256": policy.sha256},
        }
        return {**head, **(event if self.args else _without_args(event))}


def severity(event: Event) -> str:
    """info, warning or error. A denied attempt is a warning, whether or not a gate refused it."""
    if event.get("decision") == "denied":
        return "warning"
    if event["type"] == "license":
        return "info" if _is_as_wanted(event) else "warning"
    if event["type"] == "license_time":
        return "warning" if event.get("off", True) else "info"
    return _SEVERITIES.get(event["type"], "info")


def _is_as_wanted(event: Event) -> bool:
    """True for an event about a license that nobody has to act on."""
    is_fault = event.get("is_copy") and not event.get("waits_for_file")
    if is_fault or event.get("notice") or event.get("is_overdue") or event.get("left_out"):
        return False
    if event["state"] == "withdrawn":
        return event.get("previous") not in ("valid", "grace")
    return event["state"] in ("valid", "not_yet_valid", "superseded")


def _without_args(event: Event) -> Event:
    return {
        name: {key: value for key, value in fields.items() if key != "args"} if name in _PROCESSES else fields
        for name, fields in event.items()
    }
