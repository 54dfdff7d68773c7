"""Builds events as JSON-ready values from the types of agent/model.py. docs/events.md lists every field."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from agent.model import (
    Address,
    Container,
    Decision,
    Flow,
    Origin,
    Process,
    Protocol,
    Target,
    Verdict,
    show_address,
    show_time,
)

Event = dict[str, Any]
TYPES = (
    *("violation", "use", "summary", "cut", "listener", "exposure", "flow_open", "flow_close"),
    *("policy", "policy_error", "license", "license_time", "mode", "started", "stopped", "missed"),
)


def now_text(unix_s: float | None = None, timespec: str = "microseconds") -> str:
    """The time as RFC 3339 in UTC; the current time if `unix_s` is None."""
    moment = datetime.now(UTC) if unix_s is None else datetime.fromtimestamp(unix_s, UTC)
    return show_time(moment, timespec)


def unix_time(boot_ns: int) -> float:
    """Unix time in seconds of a moment of CLOCK_BOOTTIME, by the current setting of the wall clock."""
    return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + boot_ns / 1e9


def process_fields(process: Process) -> Event:
    """The known fields of a process. Unknown fields are left out; uid 0 and gid 0 are known values."""
    fields: Event = {
        "pid": process.pid or None,
        "start_boot_ns": process.start_boot_ns or None,
        "comm": process.comm,
        "exe": process.exe,
        "exe_untrusted": process.exe_untrusted or None,
        "exe_elsewhere": process.exe_elsewhere or None,
        "in_pid_namespace": process.in_pid_namespace or None,
        "args": list(process.args),
        "uid": process.uid,
        "user": process.user,
        "gid": process.gid,
        "gids": list(process.gids),
        "cgroup": process.cgroup,
        "unit": process.unit,
        **_container_fields(process.container),
        "netns": process.netns or None,
    }
    return {name: value for name, value in fields.items() if value not in (None, "", [])}


def _container_fields(container: Container | None) -> Event:
    """The fields of a container. Neither id nor name proves identity: they are what the runtime calls the
    cgroup."""
    if container is None:
        return {}
    pod = f"{container.namespace}/{container.pod}" if container.pod else ""
    return {
        "container": container.label,
        "container_id": container.id,
        "runtime": container.runtime,
        "image": container.image,
        "pod": pod,
    }


def consumer_fields(consumer: Process | None, address: Address) -> Event:
    """The fields of a consumer. `identity` tells whether the consumer is known as a process, or only by an
    address."""
    if consumer is None:
        return {"identity": "address", "address": show_address(address)}
    return {"identity": "process", **process_fields(consumer)}


def target_fields(target: Target) -> Event:
    return {"service": target.service, "class": target.port_class.value}


def tuple_fields(
    protocol: Protocol, source: Address, source_port: int, destination: Address, port: int
) -> Event:
    """The fields of a connection's tuple. An unknown source is left out: at connect() the socket may have no
    port yet."""
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
    """The common fields of every judged event. `rule` names license, entitlement and principal."""
    return {
        "type": kind,
        "time": now_text(),
        "decision": verdict.decision.name.lower(),
        "reason": verdict.reason.name.lower(),
        "enforced": verdict.enforced,
        **target_fields(target),
        **rule,
        "origin": origin.name.lower(),
        "consumer": consumer,
        "owner": process_fields(owner) if owner else {},
        "tuple": endpoints,
    }


def kind_of(decision: Decision) -> str:
    return "violation" if decision is Decision.DENIED else "use"


def flow_fields(target: Target, flow: Flow) -> Event:
    """The fields of one flow, for flow events; `licet flows` has the same (agent/export/flow_texts.py)."""
    return {
        **flow_facts(target, flow),
        "consumer": consumer_fields(flow.consumer, flow.consumer_address),
        "owner": process_fields(flow.owner) if flow.owner else {},
        "acceptor": process_fields(flow.acceptor) if flow.acceptor else {},
        "tuple": flow_tuple_fields(flow),
    }


def flow_facts(target: Target, flow: Flow) -> Event:
    """The fields of a flow without those of its ends."""
    return {
        "cookie": flow.cookie,
        **target_fields(target),
        "decision": flow.verdict.decision.name.lower(),
        "reason": flow.verdict.reason.name.lower(),
        "origin": flow.origin.name.lower(),
        "established": flow.established,
        "pre_existing": flow.pre_existing,
        # to the second: the two clocks are not read at one instant, and repeated answers should agree
        "opened_at": now_text(unix_time(flow.opened_boot_ns), "seconds"),
        "opened_boot_ns": flow.opened_boot_ns,
    }


def flow_tuple_fields(flow: Flow) -> Event:
    return tuple_fields(flow.protocol, flow.consumer_address, flow.consumer_port, flow.address, flow.port)
