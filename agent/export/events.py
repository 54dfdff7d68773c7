"""Events as JSON-ready values: builders from what the model knows. docs/events.md lists every field."""

from __future__ import annotations

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
)

Event = dict[str, Any]


def now_text(unix_s: float | None = None) -> str:
    """RFC 3339, UTC, microseconds."""
    moment = datetime.now(UTC) if unix_s is None else datetime.fromtimestamp(unix_s, UTC)
    return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")


def process_fields(process: Process) -> Event:
    """What is known of a process; what is not known is left out (the ids 0 of root are known)."""
    fields: Event = {
        "pid": process.pid or None,
        "start_boot_ns": process.start_boot_ns or None,
        "comm": process.comm,
        "exe": process.exe,
        "exe_untrusted": process.exe_untrusted or None,
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
    """The id alone proves nothing, nor does a name: it says what the runtime calls the cgroup."""
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
    """`identity` says how well the consumer is known: as a process, or only by an address."""
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
        "enforced": verdict.enforced,
        "service": target.service,
        "class": target.port_class.value,
        **rule,
        "origin": origin.name.lower(),
        "consumer": consumer,
        "owner": process_fields(owner) if owner else {},
        "tuple": endpoints,
    }


def kind_of(decision: Decision) -> str:
    return "violation" if decision is Decision.DENIED else "use"


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
