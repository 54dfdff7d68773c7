"""licet flows."""

from __future__ import annotations

from typing import Annotated

import typer

from agent.cli.output import Json, client, print_json, print_table, who
from agent.cli.running import Config
from agent.export.human import place


def flows(
    config: Config = None,
    as_json: Json = False,
    target: Annotated[str, typer.Option(help="Only SERVICE or SERVICE/CLASS.")] = "",
) -> None:
    """Flows to declared ports that are open now, with the processes at both ends."""
    found = [
        one
        for one in client(config).get("/v1/flows")
        if target in ("", one["service"], f"{one['service']}/{one['class']}")
    ]
    if as_json:
        print_json(found)
        return
    print_table(
        ("TARGET", "DECISION", "CONSUMER", "ORIGIN", "OWNER", "ACCEPTED BY", "ADDRESS"),
        (
            (
                f"{one['service']}/{one['class']}",
                f"{one['decision']} ({one['reason']})",
                who(one["consumer"]),
                one["origin"],
                who(one["owner"]),
                who(one["acceptor"]),
                place(one["tuple"]["dst"], one["tuple"]["dport"]),
            )
            for one in found
        ),
        nothing=f"no open flow to {target or 'a declared port'}",
    )
