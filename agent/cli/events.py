"""The command `licet events`."""

from __future__ import annotations

import sys
from typing import Annotated
from urllib.parse import urlencode

import typer

from agent.cli import completion
from agent.cli.alone import answering
from agent.cli.output import Json
from agent.cli.running import Config
from agent.cli.values import one_of, whole
from agent.export.events import TYPES
from agent.export.human import human_line
from agent.export.sanitize import to_json

MAX_EVENTS = 100_000


def events(
    config: Config = None,
    as_json: Json = False,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Keep printing new events.")] = False,
    limit: Annotated[
        int,
        typer.Option(
            "--limit", "-n", metavar="N", help="At most N past events.", parser=whole(0, MAX_EVENTS)
        ),
    ] = 50,
    kind: Annotated[
        str | None,
        typer.Option(
            "--type",
            metavar="TYPE",
            help="Only this type: violation, summary, listener, …",
            parser=one_of(TYPES),
            autocompletion=completion.event_types,
        ),
    ] = None,
) -> None:
    """Print the newest events, oldest first, one per line."""
    color = sys.stdout.isatty()
    query = urlencode({"limit": limit, "type": kind or "", "follow": int(follow)})
    control = answering(config)
    path = f"/v1/events?{query}"
    for event in control.lines(path) if follow else control.get(path):
        print(to_json(event) if as_json else human_line(event, color=color), flush=follow)
