"""What the reading commands share: the daemon's client, JSON and tables."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from agent.config import load_settings
from agent.export.client import ControlClient
from agent.export.human import process_name
from agent.export.text import printable

Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]
UNBOUNDED = 100_000


def client(config: Path | None) -> ControlClient:
    return ControlClient(load_settings(config).control_socket)


def print_json(value: object) -> None:
    print(json.dumps(value, indent=2, ensure_ascii=False))


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    nothing: str,
    file: TextIO | None = None,
) -> None:
    """Fits a terminal; a pipe gets every cell whole. `nothing` is said where there are no rows."""
    from rich.console import Console  # takes 50 ms, which --json need not pay
    from rich.table import Table
    from rich.text import Text

    table = Table(*columns, box=None, header_style="bold", pad_edge=False)
    for row in rows:
        table.add_row(*(Text(printable(str(cell))) for cell in row))
    if not table.row_count:
        print(nothing, file=file)
        return
    console = Console(width=None if (file or sys.stdout).isatty() else UNBOUNDED)
    with console.capture() as drawn:
        console.print(table)
    for line in drawn.get().splitlines():
        print(line.rstrip(), file=file)  # rich fills the last column up with blanks


def who(fields: Mapping[str, Any]) -> str:
    """A process (with its container), else the address that stands for it, else nothing."""
    if "pid" not in fields:
        return str(fields.get("address", ""))
    inside = fields.get("container", "")
    return f"{process_name(fields)} in {inside}" if inside else process_name(fields)
