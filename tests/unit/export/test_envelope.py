"""What every event has beside what it is about."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.export.envelope import SCHEMA, Envelope, severity
from agent.export.event_log import EventLog
from agent.export.events import Event

HASH = "ab" * 32
PROCESS = {"pid": 7, "exe": "/usr/bin/psql", "args": ["psql", "--password=secret"]}


@dataclass(frozen=True)
class InForce:
    generation: int = 4
    sha256: str = HASH


def envelope(*, args: bool = True) -> Envelope:
    return Envelope("node-1", InForce(), args)


def event(**fields: object) -> Event:
    return {"type": "violation", "time": "2026-11-23T20:39:04.357273Z", **fields}


def test_a_line_says_which_host_and_which_policy(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    EventLog(str(path), 1, envelope().around).write(event(decision="denied", consumer=PROCESS))
    line = json.loads(path.read_text())
    assert line == {
        "type": "violation",
        "time": "2026-11-23T20:39:04.357273Z",
        "schema": SCHEMA,
        "severity": "warning",
        "host": "node-1",
        "policy": {"generation": 4, "sha256": HASH},
        "decision": "denied",
        "consumer": PROCESS,
    }


@pytest.mark.parametrize("role", ["consumer", "owner", "acceptor"])
def test_arguments_are_told_of_nobody_where_they_are_not_wanted(role: str) -> None:
    told = event(**{role: PROCESS}, message="args")
    around = envelope(args=False).around(told)
    assert "secret" not in json.dumps(around)
    assert around[role] == {"pid": 7, "exe": "/usr/bin/psql"}
    assert around["message"] == "args"
    assert told[role] == PROCESS, "what is told elsewhere is not changed"


@pytest.mark.parametrize(
    ("kind", "decision", "expected"),
    [
        ("violation", "denied", "warning"),
        ("summary", "denied", "warning"),
        ("summary", "allowed", "info"),
        ("use", "grace", "info"),
        ("flow_open", "allowed", "info"),
        ("cut", "denied", "warning"),
        ("listener", None, "warning"),
        ("exposure", None, "warning"),
        ("policy", None, "info"),
        ("policy_error", None, "error"),
        ("started", None, "info"),
    ],
)
def test_severity_is_that_of_what_was_seen(kind: str, decision: str | None, expected: str) -> None:
    fields = {} if decision is None else {"decision": decision}
    assert severity(event(**fields) | {"type": kind}) == expected
