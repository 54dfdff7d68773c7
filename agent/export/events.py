"""Events as JSON lines: builders from model values to dicts, the log that keeps and writes them."""

from __future__ import annotations

import json
import os
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

from agent.model import (
    Address,
    Decision,
    Flow,
    Origin,
    Process,
    Protocol,
    Target,
    Verdict,
    show_address,
)

Event = dict[str, Any]


def now_text(unix_s: float | None = None) -> str:
    """RFC 3339, UTC, microseconds."""
    moment = datetime.now(UTC) if unix_s is None else datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def process_fields(process: Process) -> Event:
    """What is known of a process; what is not known is left out."""
    fields: Event = {
        "pid": process.pid,
        "start_boot_ns": process.start_boot_ns,
        "comm": process.comm,
        "exe": process.exe,
        "args": list(process.args),
        "uid": process.uid,
        "user": process.user,
        "gid": process.gid,
        "gids": list(process.gids),
        "cgroup": process.cgroup,
        "unit": process.unit,
        "container": process.container,
        "netns": process.netns,
    }
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def consumer_fields(consumer: Process | None, address: Address) -> Event:
    if consumer is None:
        return {"identity": "address", "address": show_address(address)}
    return {"identity": "process", **process_fields(consumer)}


def tuple_fields(
    protocol: Protocol, source: Address, source_port: int, destination: Address, port: int
) -> Event:
    """A source that is not known (a connect() that has no port yet) is left out."""
    fields: Event = {"protocol": protocol.name.lower(), "dst": show_address(destination), "dport": port}
    if source_port:
        fields |= {"src": show_address(source), "sport": source_port}
    return fields


def judged(
    kind: str,
    target: Target,
    verdict: Verdict,
    consumer: Event,
    *,
    origin: Origin,
    rule: Mapping[str, str],
    endpoints: Event,
    owner: Process | None = None,
) -> Event:
    """The common part of everything that was judged. `rule` names license, entitlement, principal."""
    return {
        "type": kind,
        "time": now_text(),
        "decision": verdict.decision.name.lower(),
        "reason": verdict.reason.name.lower(),
        "enforced": False,
        "service": target.service,
        "class": target.port_class.value,
        **rule,
        "origin": origin.name.lower(),
        "consumer": consumer,
        "owner": process_fields(owner) if owner else {},
        "tuple": endpoints,
    }


def flow_fields(target: Target, flow: Flow) -> Event:
    """One flow, as `licet flows` and flow events show it."""
    return {
        "cookie": flow.cookie,
        "service": target.service,
        "class": target.port_class.value,
        "decision": flow.verdict.decision.name.lower(),
        "reason": flow.verdict.reason.name.lower(),
        "origin": flow.origin.name.lower(),
        "established": flow.established,
        "pre_existing": flow.pre_existing,
        "opened_boot_ns": flow.opened_boot_ns,
        "consumer": consumer_fields(flow.consumer, flow.consumer_address),
        "owner": process_fields(flow.owner) if flow.owner else {},
        "acceptor": process_fields(flow.acceptor) if flow.acceptor else {},
        "tuple": tuple_fields(
            flow.protocol, flow.consumer_address, flow.consumer_port, flow.address, flow.port
        ),
    }


def kind_of(decision: Decision) -> str:
    return "violation" if decision is Decision.DENIED else "use"


class EventLog:
    """Writes each event as a line and keeps the newest. A sink that fails never stops the agent: the
    line is counted as lost, and the file opened again for the next one."""

    def __init__(self, sink: str, keep: int, stdout: TextIO | None = None) -> None:
        self._sink = sink
        self._stdout = stdout or sys.stdout
        self._kept: deque[Event] = deque(maxlen=keep)
        self._lost = 0
        self._fd: int | None = None
        self.cursor = 0
        """Sequence number of the next event."""

    def write(self, event: Event) -> None:
        self._kept.append(event)
        self.cursor += 1
        if self._sink == "none":
            return
        line = json.dumps(event, ensure_ascii=False, separators=(",", ":")) + "\n"
        try:
            self._write_line(line)
        except (OSError, ValueError):
            self._lost += 1
            self.reopen()

    def _write_line(self, line: str) -> None:
        if self._sink == "stdout":
            self._stdout.write(line)
            self._stdout.flush()
            return
        if self._fd is None:
            self._fd = os.open(self._sink, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o640)
        os.write(self._fd, line.encode("utf-8", "surrogateescape"))

    def reopen(self) -> None:
        """After logrotate has renamed the file."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None

    def losses(self) -> dict[str, int]:
        return {"event_sink": self._lost}

    def recent(self, limit: int) -> Sequence[Event]:
        return list(self._kept)[-limit:] if limit else []

    def since(self, cursor: int) -> tuple[int, Sequence[Event]]:
        """(new cursor, events from `cursor` on that are still kept)."""
        missing = min(self.cursor - cursor, len(self._kept))
        return self.cursor, list(self._kept)[-missing:] if missing > 0 else []


def human_line(event: Event) -> str:
    """One readable line for a terminal."""
    clock = datetime.fromisoformat(event["time"]).astimezone().strftime("%H:%M:%S")
    what = f"{event.get('service') or '-'}/{event.get('class') or '-'}"
    if event["type"] in ("violation", "use", "summary"):
        where = event["tuple"]
        line = (
            f"{clock} {event['decision'].upper()} {event['reason']} {what}  "
            f"{_who(event['consumer'])} → {where['dst']}:{where['dport']}"
        )
        if event["owner"]:
            line += f" (owner {_process(event['owner'])})"
        if event["type"] == "summary":
            line += f" ×{event['counts']['attempts']:,} in {event['counts']['seconds']:.0f} s"
        return line
    if event["type"] in ("listener", "exposure"):
        return f"{clock} {event['reason'].upper()} {what}  {event['explanation']}"
    return f"{clock} {event['type']}  {event.get('message', '')}"


def _process(process: Event) -> str:
    name = process.get("comm") or process.get("exe", "?").rpartition("/")[2] or "?"
    return f"{name}[{process.get('pid', '?')}]"


def _who(consumer: Event) -> str:
    if consumer["identity"] == "address":
        return str(consumer["address"])
    text = f"{_process(consumer)} uid={consumer.get('uid', '?')}"
    if consumer.get("user"):
        text += f"({consumer['user']})"
    for name in ("unit", "container"):
        if consumer.get(name):
            text += f" {name}={consumer[name]}"
    return text
