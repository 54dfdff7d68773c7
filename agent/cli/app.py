"""Puts the commands together, and turns errors into one line and an exit code."""

from __future__ import annotations

import sys

import typer

from agent.cli import explain, policy, running, watching
from agent.errors import LicetError

INTERRUPTED = 130

app = typer.Typer(
    help="Every connect() and accept() of this host, judged against the license policy in the kernel.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command()(running.run)
app.command()(running.load)
app.command()(running.unload)
app.command()(watching.status)
app.command()(watching.doctor)
app.command()(watching.events)
app.command()(watching.flows)
app.command()(watching.listeners)
app.command()(running.version)
app.command()(explain.explain)
app.add_typer(policy.app, name="policy")


def main() -> None:
    """Entry point `licet`. A LicetError is a line on stderr, never a traceback."""
    try:
        app()
    except LicetError as error:
        for line in str(error).splitlines():
            print(f"licet: {line}", file=sys.stderr)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:
        sys.stderr.close()  # `licet events | head`: nobody reads any more
        sys.exit(0)
