"""The command `licet doctor`."""

from __future__ import annotations

from dataclasses import asdict

import typer

from agent.cli.output import Json, print_json, print_table
from agent.cli.running import Config, settings_of
from agent.errors import EXIT_FAILED


def doctor(config: Config = None, as_json: Json = False) -> None:
    """Check which kernel features licet uses are present, and what licet does without each. Needs no
    daemon.

    Exit code 1 if a required feature is missing."""
    from agent.kernel.features import probe  # loads libbpf

    features = probe(settings_of(config).paths.pins)
    if as_json:
        print_json([asdict(feature) for feature in features])
    else:
        print_table(
            ("FEATURE", "FOUND", "DETAIL", "WITHOUT IT"),
            ((one.name, "yes" if one.found else "no", one.detail, one.instead) for one in features),
            nothing="nothing was probed",
        )
    missing = [feature.name for feature in features if feature.required and not feature.found]
    if missing:
        typer.echo(f"licet: cannot run here; missing: {', '.join(missing)}", err=True)
        raise typer.Exit(EXIT_FAILED)
