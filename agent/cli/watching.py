"""What an operator looks at: status, doctor, events, flows, listeners."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Annotated, Any

import typer

from agent.cli.running import Config
from agent.config import load_settings
from agent.errors import EXIT_FAILED
from agent.export.client import ControlClient

Json = Annotated[bool, typer.Option("--json", help="JSON instead of a table.")]


def _client(config: Any) -> ControlClient:
    return ControlClient(load_settings(config).control_socket)


def _print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def _print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(str(cell)) for cell in row))
    console = Console()
    # cut by nobody: a pipe has no width
    console.print(table, soft_wrap=not console.is_terminal, crop=console.is_terminal)


def status(config: Config = None, as_json: Json = False) -> None:
    """What is attached, where, by which rung; policy, losses, memory, and what is not covered."""
    answer = _client(config).get("/v1/status")
    if as_json:
        _print_json(answer)
        return
    policy, flows = answer["policy"], answer["flows"]
    print(f"licet {answer['version']} (pid {answer['pid']}), {answer['mode']}, up {answer['uptime_s']:.0f} s")
    print(f"metrics    http://{answer['listen']}/metrics")
    print(f"pins       {answer['pins']}   kernel {answer['kernel']['release']}")
    print(f"scope      cgroup {answer['scope']['cgroup']}, namespaces {answer['scope']['namespaces']}")
    files = ", ".join(policy["files"]) or "none"
    targets = f"{policy['targets']} targets, {policy['grants']} grants"
    print(f"policy     generation {policy['generation']}: {targets} ({files})")
    if policy["last_error"]:
        print(f"           last reload failed: {policy['last_error']}")
    for warning in policy["warnings"]:
        print(f"           warning: {warning}")
    print(f"flows      {flows['open']} open, {flows['opened']} opened, {flows['closed']} closed")
    print(f"memory     {answer['memory_mb']} MB")
    losses = {cause: count for cause, count in answer["losses"].items() if count}
    print(f"losses     {losses or 'none'}\n")
    _print_table(
        ("HOOK", "RUNG", "ATTACHED TO", "NOTE"),
        ((one["hook"], one["rung"], one["attached_to"], one["note"]) for one in answer["hooks"]),
    )
    print()
    _print_table(
        ("NOT COVERED", "WHAT FOLLOWS"), ((one["what"], one["follows"]) for one in answer["not_covered"])
    )


def doctor(as_json: Json = False) -> None:
    """What this kernel has of what licet uses, and what licet does instead. Needs no daemon."""
    from agent.kernel.features import probe

    features = probe()
    missing = [feature for feature in features if feature.required and not feature.found]
    if as_json:
        _print_json(
            [
                {
                    "name": one.name,
                    "found": one.found,
                    "required": one.required,
                    "detail": one.detail,
                    "instead": one.instead,
                }
                for one in features
            ]
        )
    else:
        _print_table(
            ("FEATURE", "FOUND", "DETAIL", "WITHOUT IT"),
            ((one.name, "yes" if one.found else "NO", one.detail, one.instead) for one in features),
        )
    if missing:
        raise typer.Exit(EXIT_FAILED)


def events(
    config: Config = None,
    as_json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come.")] = False,
    limit: Annotated[int, typer.Option("--limit", "-n", min=0, max=100_000, help="At most so many.")] = 50,
    kind: Annotated[str, typer.Option("--type", help="Only events of this type.")] = "",
) -> None:
    """The newest events, one a line."""
    client = _client(config)
    wanted = (
        client.lines(f"/v1/events?follow=1&limit={limit}")
        if follow
        else client.get(f"/v1/events?limit={limit}")
    )
    from agent.export.events import human_line

    for event in wanted:
        if not kind or event["type"] == kind:
            print(json.dumps(event, ensure_ascii=False) if as_json else human_line(event), flush=follow)


def flows(
    config: Config = None,
    as_json: Json = False,
    target: Annotated[str, typer.Option(help="Only SERVICE or SERVICE/CLASS.")] = "",
) -> None:
    """Flows to declared ports that are open now, with the processes at both ends."""
    found = [
        one
        for one in _client(config).get("/v1/flows")
        if target in ("", one["service"], f"{one['service']}/{one['class']}")
    ]
    if as_json:
        _print_json(found)
        return
    _print_table(
        ("TARGET", "DECISION", "CONSUMER", "OWNER", "ACCEPTED BY", "ADDRESS"),
        (
            (
                f"{one['service']}/{one['class']}",
                f"{one['decision']} ({one['reason']})",
                _process(one["consumer"]),
                _process(one["owner"]),
                _process(one["acceptor"]),
                f"{one['tuple']['dst']}:{one['tuple']['dport']}",
            )
            for one in found
        ),
    )


def listeners(
    config: Config = None,
    as_json: Json = False,
    judged: Annotated[bool, typer.Option(help="Only those that should not be there.")] = False,
) -> None:
    """Who listens where, and what the policy says of it."""
    found = _client(config).get("/v1/listeners")
    if judged:
        found = [one for one in found if set(one["states"]) - {"declared"}]
    if as_json:
        _print_json(found)
        return
    _print_table(
        ("PROTO", "ADDRESS", "BIND", "OWNER", "SERVICE", "STATE", "WHY"),
        (
            (
                one["protocol"],
                f"{one['address']}:{one['port']}",
                one["bind"],
                ", ".join(_process(owner) for owner in one["owners"][:3]),
                f"{one['service']}/{one['class']}" if one["service"] else one["catalog"].partition(":")[0],
                ", ".join(one["states"]),
                one["explanation"],
            )
            for one in found
        ),
    )


def _process(fields: dict[str, Any]) -> str:
    if "pid" not in fields:
        return str(fields.get("address", ""))
    name = fields.get("comm") or str(fields.get("exe", "?")).rpartition("/")[2]
    return f"{name}[{fields['pid']}]"
