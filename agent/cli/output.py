"""Shared by the reading commands: the daemon's client, JSON and tables."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from itertools import islice, zip_longest
from pathlib import Path
from typing import Annotated, Any, TextIO

import typer

from agent.cli.running import settings_of
from agent.export.client import ControlClient
from agent.export.human import process_name
from agent.export.sanitize import printable, to_json

Json = Annotated[bool, typer.Option("--json", help="JSON instead of text.")]

GAP = 2
BLOCK = 1000
"""The number of rows that a table prints at once."""
_Row = Sequence[str]


def client(config: Path | None) -> ControlClient:
    return ControlClient(settings_of(config).control_socket)


def print_json(value: object) -> None:
    print(to_json(value, indent=2))


def print_json_array(values: Iterable[object]) -> None:
    """What print_json() prints of a list, each value as it comes."""
    start = "[\n"
    for value in values:
        print(f"{start}{textwrap.indent(to_json(value, indent=2), '  ')}", end="")
        start = ",\n"
    print("[]" if start == "[\n" else "\n]")


def is_terminal(file: TextIO | None = None) -> bool:
    return (file or sys.stdout).isatty()


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence[object]],
    *,
    nothing: str,
    whole: Collection[str] = (),
    file: TextIO | None = None,
) -> None:
    """Print a table that fits the terminal. In a narrow terminal, cells wrap within their column. If that
    would break a word, or if `whole` names columns, the row's line has only the columns of `whole` (else
    the first). The other cells follow below that line, each with its name. A pipe gets one line per row.
    Without rows, `nothing` is printed.

    A long table is printed in blocks, as its rows come. A terminal gets the columns' names above each."""
    blocks = _blocks([printable(str(cell)) for cell in row] for row in rows)
    if is_terminal(file):
        width = shutil.get_terminal_size().columns
        parts: Iterable[Iterable[str]] = (_laid_out(columns, block, whole, width) for block in blocks)
    else:
        parts = _aligned_blocks(columns, blocks)
    printed = False
    for lines in parts:
        print("\n".join(line.rstrip() for line in lines), file=file)
        printed = True
    if not printed:
        print(nothing, file=file)


def _blocks(rows: Iterable[_Row]) -> Iterator[list[_Row]]:
    left = iter(rows)
    while block := list(islice(left, BLOCK)):
        yield block


def _aligned_blocks(columns: Sequence[str], blocks: Iterable[list[_Row]]) -> Iterator[Iterable[str]]:
    """Lines of each block. A column may get wider from block to block."""
    widths, head = [0] * len(columns), [columns]
    for block in blocks:
        table = [*head, *block]
        widths = [max(width, *map(len, cells)) for width, *cells in zip(widths, *table, strict=True)]
        yield _aligned(table, widths)
        head = []


def _laid_out(
    columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[str], width: int
) -> Iterable[str]:
    found = list(_table(columns, rows))
    if max(len(line.rstrip()) for line in found) <= width:
        return found
    wrapped = None if whole else _wrapped(columns, rows, width)
    return wrapped or _with_rest_below(columns, rows, whole or columns[:1], width)


def _with_rest_below(
    columns: Sequence[str], rows: Sequence[Sequence[str]], whole: Collection[str], width: int
) -> Iterator[str]:
    kept = [number for number, name in enumerate(columns) if name in whole]
    head, *lines = _table([columns[n] for n in kept], [[row[n] for n in kept] for row in rows])
    yield head
    for line, row in zip(lines, rows, strict=True):
        yield line
        rest = [
            f"{name.lower()} {cell}"
            for name, cell in zip(columns, row, strict=True)
            if name not in whole and cell
        ]
        yield from textwrap.wrap(
            ", ".join(rest),
            width,
            initial_indent="    ",
            subsequent_indent="    ",
            break_on_hyphens=False,
        )


def _wrapped(columns: Sequence[str], rows: Sequence[Sequence[str]], width: int) -> Iterator[str] | None:
    """Cells wrapped within their columns; None if a word would have to be broken."""
    table = [columns, *rows]
    by_column = list(zip(*table, strict=True))
    least = [max(len(word) for cell in column for word in cell.split() or [""]) for column in by_column]
    wanted = [max(map(len, column)) - least[n] for n, column in enumerate(by_column)]
    room = width - GAP * (len(columns) - 1) - sum(least)
    if room < 0:
        return None
    widths = least
    for left, n in enumerate(sorted(range(len(columns)), key=wanted.__getitem__)):
        more = min(wanted[n], room // (len(columns) - left))
        widths[n] += more
        room -= more
    return _lines(table, widths)


def _lines(table: Sequence[Sequence[str]], widths: Sequence[int]) -> Iterator[str]:
    for row in table:
        cells = [
            textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False)
            for cell, width in zip(row, widths, strict=True)
        ]
        for parts in zip_longest(*cells, fillvalue=""):
            yield (" " * GAP).join(part.ljust(width) for part, width in zip(parts, widths, strict=True))


def _table(columns: Sequence[str], rows: Sequence[_Row]) -> Iterator[str]:
    widths = [max(map(len, column)) for column in zip(columns, *rows, strict=True)]
    return _aligned([columns, *rows], widths)


def _aligned(table: Iterable[_Row], widths: Sequence[int]) -> Iterator[str]:
    for row in table:
        yield (" " * GAP).join(cell.ljust(width) for cell, width in zip(row, widths, strict=True))


def print_facts(facts: Iterable[tuple[str, str]], indent: int) -> None:
    """Print names and texts. In a terminal, a long text wraps below its own beginning."""
    width = shutil.get_terminal_size().columns if is_terminal() else None
    for name, text in facts:
        line = f"{name:<{indent}}{printable(text)}"
        if width is None or len(line) <= width:
            print(line)
            continue
        print(
            textwrap.fill(
                line,
                width,
                subsequent_indent=" " * indent,
                break_long_words=False,
                break_on_hyphens=False,
                replace_whitespace=False,
                drop_whitespace=True,
            )
        )


def target_name(fields: Mapping[str, Any]) -> str:
    return f"{fields['service']}/{fields['class']}"


def target_names(targets: Iterable[Mapping[str, Any]]) -> set[str]:
    """The valid values of --target: each service, and each service/class."""
    return {name for one in targets for name in (one["service"], target_name(one))}


def program(process: Mapping[str, Any]) -> str:
    """The last part of the executable's path. `comm` is only a fallback: a process can set it to any text."""
    return str(process.get("exe", "").rpartition("/")[2] or process.get("comm", ""))


def lives_in(process: Mapping[str, Any]) -> str:
    """Where a process runs: its container, else its unit, else its network namespace."""
    if process.get("container"):
        return f"container {process['container']}"
    return str(process.get("unit") or (f"netns {process['netns']}" if process.get("netns") else ""))


def who(fields: Mapping[str, Any]) -> str:
    """A process with its container, else the address that stands for it, else an empty text."""
    if "pid" not in fields:
        return str(fields.get("address", ""))
    inside = fields.get("container", "")
    return f"{process_name(fields)} in {inside}" if inside else process_name(fields)
