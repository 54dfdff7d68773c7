"""Assembles the commands, and turns errors into one line and an exit code."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from agent.cli import (
    doctor,
    events,
    explain,
    flows,
    licenses,
    listeners,
    mode,
    policy,
    running,
    status,
    sysdump,
)
from agent.cli.license import app as license_app
from agent.cli.usage import UsageError, describe
from agent.errors import EXIT_FAILED, EXIT_USAGE, LicetError

INTERRUPTED = 130
DEBUG = "LICET_DEBUG"
"""Environment variable. If it is set, an unexpected error shows its traceback."""

app = typer.Typer(
    help="Every connect() and accept() of this host, judged against the license policy in the kernel.",
    no_args_is_help=True,
    add_completion=True,
    pretty_exceptions_enable=False,
)
app.command()(running.run)
app.command()(running.load)
app.command()(running.unload)
app.command()(status.status)
app.command()(doctor.doctor)
app.command()(events.events)
app.command()(licenses.licenses)
app.command()(flows.flows)
app.command()(listeners.listeners)
app.command()(mode.mode)
app.add_typer(policy.app, name="policy")
app.command()(explain.explain)
app.add_typer(license_app.app, name="license")
app.command()(sysdump.sysdump)
app.command()(running.version)


@app.callback()
def options(
    config: Annotated[
        Path | None,
        typer.Option("--config", "-c", help="Configuration file; may also stand after the command."),
    ] = None,
) -> None:
    running.settings_of.cache_clear()  # clear the previous command's settings, if one process runs several
    if config is not None:  # every command reads it from there, unless it has its own option
        os.environ[running.CONFIG] = str(config)


def main() -> None:
    """Entry point `licet`. An error is a line on stderr, never a traceback."""
    _open_what_is_closed()
    try:
        try:
            ended = app(standalone_mode=False, prog_name="licet")
        finally:
            sys.stdout.flush()  # here, where a closed pipe is still handled
        sys.exit(ended if isinstance(ended, int) else 0)
    except UsageError as error:
        if "NoArgsIsHelp" in type(error).__name__:
            error.show()  # type: ignore[attr-defined]
        else:
            _print_error(describe(error))
        sys.exit(EXIT_USAGE)
    except typer.Abort:  # the user aborted a question
        sys.exit(EXIT_FAILED)
    except LicetError as error:
        _print_error(str(error))
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(INTERRUPTED)
    except BrokenPipeError:  # `licet events | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(EXIT_FAILED)
    except Exception as error:  # the last place to turn an error into one line
        if DEBUG in os.environ:
            raise
        _print_error(f"{type(error).__name__}: {error} ({DEBUG}=1 shows the traceback)")
        sys.exit(EXIT_FAILED)


def _open_what_is_closed() -> None:
    """Open standard streams that are closed, as after `licet listeners >&-`. Python has no stream there,
    and the next file opened would get its number."""
    for name in ("stdin", "stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "r" if name == "stdin" else "w", encoding="utf-8"))  # noqa: SIM115


def _print_error(message: str) -> None:
    for line in message.splitlines():
        print(f"licet: {line}", file=sys.stderr)
