"""Formats an event as one readable line."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, datetime
from typing import Any

from agent.export.sanitize import printable
from agent.wording import counted

Fields = Mapping[str, Any]

_RED, _YELLOW, _GREEN, _PLAIN = "\033[31m", "\033[33m", "\033[32m", "\033[0m"
_COLORS = {"denied": _RED, "grace": _YELLOW, "overage": _YELLOW, "allowed": _GREEN}


def human_line(event: Fields, *, color: bool = False, today: date | None = None) -> str:
    """`14:02:11 REFUSED unlicensed_principal orders-db/internal curl[4711] uid=1000(ann) → …`. The time is
    local, with the date unless it is today. Text from a process can neither break the line nor color it."""
    at = clock(datetime.fromisoformat(event["time"]).astimezone(), today or date.today())
    title, detail = _FORMATS.get(event["type"], _other)(event)
    shade = _COLORS.get(event.get("decision", ""), _RED if event["type"] in _FAULTS else "") if color else ""
    shown = f"{shade}{printable(title)}{_PLAIN}" if shade else printable(title)
    return f"{at} {shown}  {printable(detail)}".rstrip()


def clock(moment: datetime, today: date) -> str:
    return moment.strftime("%H:%M:%S" if moment.date() == today else "%Y-%m-%d %H:%M:%S")


def _what(event: Fields) -> str:
    return f"{event['service']}/{event['class']}" if event.get("service") else "-"


def _decision(event: Fields) -> str:
    """A denied attempt was refused only if the target enforces. A denied flow is open: it was not refused."""
    if event["decision"] != "denied":
        return str(event["decision"]).upper()
    return "REFUSED" if event.get("enforced") else "WOULD DENY"


def _attempt(event: Fields) -> tuple[str, str]:
    title = f"{_decision(event)} {event['reason']} {_what(event)}"
    detail = f"{_who(event['consumer'])} → {_where(event['tuple'])}"
    if event.get("owner"):
        detail += f" (owner {process_name(event['owner'])})"
    if event["decision"] != "denied" and event.get("license"):
        detail += f" by {event['license']}/{event.get('entitlement', '?')} as {event.get('principal', '?')}"
    if event.get("pre_existing"):
        detail += " (open since before the agent)"
    return title, detail


def _summary(event: Fields) -> tuple[str, str]:
    title, detail = _attempt(event)
    counts = event["counts"]
    return title, f"{detail} ×{counts['attempts']:,} in {counts['seconds']:.0f} s"


def _flow(event: Fields) -> tuple[str, str]:
    title, detail = _attempt(event)
    verb = "opened" if event["type"] == "flow_open" else "closed"
    return f"{verb} {title}", detail


def _cut(event: Fields) -> tuple[str, str]:
    _, detail = _attempt(event)
    return f"CUT {event['reason']} {_what(event)}", f"{detail} ×{event['counts']['flows']:,}"


def _finding(event: Fields) -> tuple[str, str]:
    detail = str(event.get("explanation", ""))
    if event.get("owner"):
        detail += f" (owner {_process(event['owner'])})"
    what = f"{event['reason'].upper()} {_what(event)}"
    return f"REFUSED {what}" if event.get("enforced") else what, detail


def _other(event: Fields) -> tuple[str, str]:
    text = str(event.get("message") or event.get("version") or event.get("count") or "")
    first, *more = text.splitlines() or [""]
    return event["type"], first + (f" (and {counted(len(more), 'more line')}: licet status)" if more else "")


_FORMATS = {
    "use": _attempt,
    "violation": _attempt,
    "summary": _summary,
    "flow_open": _flow,
    "flow_close": _flow,
    "cut": _cut,
    "listener": _finding,
    "exposure": _finding,
}
_FAULTS = ("listener", "exposure", "policy_error")


def _where(endpoints: Fields) -> str:
    return place(endpoints["dst"], endpoints["dport"]) + (
        " udp" if endpoints.get("protocol") == "udp" else ""
    )


def place(address: str, port: int) -> str:
    """`10.0.0.1:80` or `[::1]:80`."""
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def process_name(process: Fields) -> str:
    """`curl[4711]`, as far as it is known. The name is taken from the executable, because a process can
    set its own comm."""
    name = process.get("exe", "").rpartition("/")[2] or process.get("comm") or "?"
    return f"{name}[{process.get('pid', '?')}]"


def _who(consumer: Fields) -> str:
    match consumer["identity"]:
        case "process":
            return _process(consumer)
        case "user":
            return f"processes of user {consumer.get('user') or consumer['uid']}"
        case "others":
            return "others"
        case kind:
            return str(consumer[kind])


def _shown_groups(process: Fields) -> tuple[str, ...]:
    """Which fields tell where a process runs. A container's name is more useful than its unit, which is
    docker-ID.scope. A process with neither is described by executable, cgroup and namespace."""
    if process.get("container"):
        return ("container", "pod")
    return ("unit",) if process.get("unit") else ("exe", "cgroup", "netns")


def _process(process: Fields) -> str:
    text = f"{process_name(process)} uid={process.get('uid', '?')}"
    if process.get("user"):
        text += f"({process['user']})"
    if process.get("exe_untrusted"):
        text += " (untrusted path: unprivileged mount namespace)"
    if process.get("exe_elsewhere"):
        text += " (path below another root directory)"
    if process.get("in_pid_namespace") and not process.get("container"):
        text += " in a pid namespace"
    for name in _shown_groups(process):
        if process.get(name):
            text += f" {name}={process[name]}"
    return text
