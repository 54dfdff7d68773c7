"""licet events."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlencode

import typer

from agent.cli import completion
from agent.cli.alone import answering
from agent.cli.output import Json
from agent.cli.running import Config
from agent.export.events import TYPES
from agent.export.human import human_line
from agent.export.text import to_json
from agent.policy.findings import did_you_mean

MAX_EVENTS = 100_000


def events(
    config: Config = None,
    as_json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on as events come.")] = False,
    limit: Annotated[
        int, typer.Option("--limit", "-n", min=0, max=MAX_EVENTS, help="At most so many of the past.")
    ] = 50,
    kind: Annotated[
        str,
        typer.Option(
            "--type",
            help="Only this type: violation, summary, listener, …",
            autocompletion=completion.event_types,
        ),
    ] = "",
) -> None:
    """The newest events, oldest first, one a line."""
    if kind and kind not in TYPES:
        remedy = did_you_mean(kind, TYPES, f"types are {', '.join(TYPES)}")
        raise typer.BadParameter(f"no type '{kind}': {remedy}", param_hint="--type")
    color = sys.stdout.isatty()
    query = urlencode({"limit": limit, "type": kind, "follow": int(follow)})
    control = answering(config)
    path = f"/v1/events?{query}"
    for event in control.lines(path) if follow else control.get(path):
        print(to_json(event) if as_json else human_line(event, color=color), flush=follow)
