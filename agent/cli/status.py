"""The command `licet status`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date, datetime

from agent.cli.alone import asked
from agent.cli.output import Json, print_facts, print_json, print_table, target_name
from agent.cli.running import Config
from agent.export.human import clock
from agent.export.license_text import about_unsigned, license_lines
from agent.export.licenses import LicensesFields
from agent.export.status import ContainersStatus, Status, UnservedPort
from agent.wording import counted

MOST_UNSERVED = 10
MOST_LICENSES = 20


def status(config: Config = None, as_json: Json = False) -> None:
    """Show the attached programs with place and attach method (rung), the policy, losses, memory, and what
    is not covered. Without a daemon, show what its kernel programs do."""
    answer: Status = asked(config, "/v1/status", as_json)
    if as_json:
        print_json(answer)
        return
    print_facts(_facts(answer), indent=11)
    print()
    print_table(
        ("HOOK", "RUNG", "ATTACHED TO", "NOTE"),
        ((one["hook"], one["rung"], one["attached_to"], one["note"]) for one in answer["hooks"]),
        nothing="no hook is attached",
        whole=("HOOK", "RUNG"),
    )
    print()
    print_table(
        ("GATE", "ATTACHED TO", "NOTE"),
        ((one["gate"], one["attached_to"] or "-", one["note"]) for one in answer["gates"]),
        nothing="this agent has no gates",
    )
    print()
    print_table(
        ("MAP", "ENTRIES", "ROOM FOR"),
        ((name, use["entries"], use["capacity"]) for name, use in answer["maps"].items()),
        nothing="no map is counted",
    )
    print()
    print_table(
        ("NOT COVERED", "WHAT FOLLOWS"),
        ((one["what"], one["follows"]) for one in answer["not_covered"]),
        nothing="nothing is left out",
    )


def _facts(answer: Status) -> list[tuple[str, str]]:
    policy, flows, scope = answer["policy"], answer["flows"], answer["scope"]
    losses = [f"{cause} {count:,}" for cause, count in answer["losses"].items() if count]
    facts = [
        ("licet", f"{answer['version']}, pid {answer['pid']}, up {span(answer['uptime_s'])}"),
        ("mode", f"{answer['mode']}{_not_ready(answer)}"),
        ("metrics", f"http://{answer['listen']}/metrics"),
        ("kernel", ", ".join(f"{name} {value}" for name, value in answer["kernel"].items() if value)),
        ("scope", f"cgroup {scope['cgroup']}, namespaces {_listed(scope['namespaces'])}"),
        ("pins", f"{answer['pins']}: {counted(len(answer['programs']), 'program')}"),
        (
            "policy",
            f"generation {policy['generation']}: {counted(policy['targets'], 'target')}, "
            f"{counted(policy['grants'], 'grant')} "
            f"({_listed(policy['files']) or 'no file'})",
        ),
    ]
    facts += [("", f"warning: {warning}") for warning in policy["warnings"]]
    if policy["last_error"] and not policy.get("is_last_good"):  # otherwise TROUBLE shows it
        first, *more = policy["last_error"].splitlines()
        facts.append(("", f"the last reload failed: {first}"))
        facts += [("", f"  {line}") for line in more]
    facts += _licenses(answer.get("licenses"))  # a daemon of an earlier version does not send it
    facts += _unserved(answer.get("unserved", ()))
    for why in answer["troubles"].values():
        first, *more = why.splitlines()
        facts += [("TROUBLE", first), *(("", f"  {line}") for line in more)]
    facts += [
        ("containers", _containers(answer["containers"])),
        ("flows", f"{flows['open']:,} open, {flows['opened']:,} opened, {flows['closed']:,} closed"),
        ("losses", ", ".join(losses) or "none"),
        ("memory", f"{answer['memory_mb']} MB"),
    ]
    return facts


def _not_ready(answer: Status) -> str:
    if answer["ready"]:
        return ""
    why = answer.get("not_ready")  # a daemon of an earlier version does not send it
    if not why:
        return " (not ready)"
    if not why["since"]:
        return f" (not ready yet: {why['reason']})"
    since = clock(datetime.fromisoformat(why["since"]).astimezone(), date.today())
    return f" (not ready since {since}: see TROUBLE)"


def _licenses(answer: LicensesFields | None) -> list[tuple[str, str]]:
    """Those in force first: `licet licenses` lists all."""
    if answer is None:
        return []
    in_force_first = sorted(answer["licenses"], key=lambda one: not one["in_force"])
    lines = license_lines({**answer, "licenses": in_force_first})
    shown = lines[:MOST_LICENSES]
    if len(lines) > MOST_LICENSES:
        shown.append(f"and {len(lines) - MOST_LICENSES:,} more (licet licenses)")
    shown += filter(None, [about_unsigned(answer)])
    return [("licenses" if not number else "", line) for number, line in enumerate(shown)]


def _unserved(ports: Sequence[UnservedPort]) -> list[tuple[str, str]]:
    lines = [
        f"no process listens on {one['ports']} of {target_name(one)}: "
        f"start it, or correct the policy ({one['rule']})"
        for one in ports[:MOST_UNSERVED]
    ]
    if len(ports) > MOST_UNSERVED:
        lines.append(f"and {len(ports) - MOST_UNSERVED:,} more (--json)")
    return [("unserved" if not number else "", line) for number, line in enumerate(lines)]


def _containers(answer: ContainersStatus) -> str:
    there = [f"{name} ({places})" for name, places in answer["state"].items() if places]
    cri = answer["cri"]
    if cri["runtime"]:
        there.append(f"CRI: {cri['runtime']} ({cri['socket']})")
    text = (
        f"names from {', '.join(there)}"
        if there
        else "no state of a container runtime found: containers are known by id only"
    )
    if cri["error"]:
        text += f"; {cri['socket']} does not speak CRI: {cri['error']}"
    waiting = answer["unnamed"]
    return f"{text}; {waiting} without a name follow{'s' * (waiting == 1)} on_unresolved" if waiting else text


def _listed(value: str | list[str]) -> str:
    return value if isinstance(value, str) else ", ".join(value)


def span(seconds: float, *, units: int = 2) -> str:
    """A duration in its largest units: 1 h 2 min."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    parts = [(days, "d"), (hours, "h"), (minutes, "min"), (rest, "s")]
    shown = [f"{count} {unit}" for count, unit in parts if count]
    return " ".join(shown[:units]) or "0 s"
