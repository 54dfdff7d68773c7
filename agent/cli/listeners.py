"""licet listeners."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any

import typer

from agent.cli.output import Json, client, print_json, print_table, who
from agent.cli.running import Config
from agent.export.human import place

OWNERS_SHOWN = 3


def listeners(
    config: Config = None,
    as_json: Json = False,
    show_all: Annotated[
        bool, typer.Option("--all/--judged", help="All of them, or only those that should not be there.")
    ] = True,
) -> None:
    """Who listens where, how wide, and what the policy says of it."""
    found = [
        one for one in client(config).get("/v1/listeners") if show_all or set(one["states"]) - {"declared"}
    ]
    if as_json:
        print_json(found)
        return
    print_table(
        ("PROTO", "ADDRESS", "BIND", "OWNER", "SERVICE", "STATE", "WHY"),
        (
            (
                one["protocol"],
                place(one["address"], one["port"]),
                one["bind"],
                _owners(one["owners"]),
                f"{one['service']}/{one['class']}" if one["service"] else one["catalog"].partition(":")[0],
                ", ".join(one["states"]),
                one["explanation"],
            )
            for one in found
        ),
        nothing="nothing listens" if show_all else "no listener that should not be there",
    )


def _owners(owners: list[Mapping[str, Any]]) -> str:
    more = len(owners) - OWNERS_SHOWN
    return ", ".join(map(who, owners[:OWNERS_SHOWN])) + (f" and {more} more" if more > 0 else "")
