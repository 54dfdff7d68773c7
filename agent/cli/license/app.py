"""Assembles the commands of `licet license`."""

from __future__ import annotations

import typer

from agent.cli.license.issue import issue
from agent.cli.license.keygen import keygen

app = typer.Typer(
    help="License documents: make keys and sign (the vendor's side), request and check (the operator's).",
    no_args_is_help=True,
)
app.command()(keygen)
app.command()(issue)
