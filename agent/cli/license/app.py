"""Assembles the commands of `licet license`."""

from __future__ import annotations

import typer

from agent.cli.license.issue import issue
from agent.cli.license.keygen import keygen
from agent.cli.license.request import request
from agent.cli.license.revoke import revoke
from agent.cli.license.show import show, verify

app = typer.Typer(
    help="License documents: make keys and sign (the vendor's side), request and check (the operator's).",
    no_args_is_help=True,
)
app.command()(keygen)
app.command()(issue)
app.command()(revoke)
app.command()(request)
app.command()(show)
app.command()(verify)
