"""The command `licet listeners`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer

from agent.cli.alone import answering
from agent.cli.output import (
    Json,
    is_terminal,
    lives_in,
    print_json,
    print_table,
    program,
    target_name,
)
from agent.cli.running import Config
from agent.export.human import place
from agent.export.sanitize import printable

COLUMNS = ("STATE", "PORT", "ADDRESS", "PID", "OWNER", "OF", "SERVICE", "LOOKS LIKE")
WHOLE = ("STATE", "PORT", "ADDRESS", "PID")
MOST_ALIKE = 20
FEW = 3


def listeners(
    config: Config = None,
    as_json: Json = False,
    show_all: Annotated[
        bool, typer.Option("--all/--judged", help="All listeners, or only those that should not be there.")
    ] = True,
) -> None:
    """List the listeners: process, address, how wide each one listens, and its state by the policy."""
    answer = answering(config).get("/v1/listeners")
    found = [one for one in answer if show_all or set(one["states"]) - {"declared"}]
    if as_json:
        print_json(found)
        return
    nothing = "nothing listens" if show_all else "no listener that should not be there"
    if not is_terminal():
        print_table((*COLUMNS, "WHY"), ((*_row(one), one["explanation"]) for one in found), nothing=nothing)
        return
    shown, rows = _readable(found)
    print_table(COLUMNS, rows, nothing=nothing, whole=WHOLE)
    for one in shown:
        if one["explanation"]:
            print(f"{printable(place(one['address'], one['port']))}: {printable(one['explanation'])}")


def _readable(
    found: Sequence[Mapping[str, Any]],
) -> tuple[list[Mapping[str, Any]], list[tuple[object, ...]]]:
    """(the listeners shown, table rows). If one process has very many similar listeners, a few rows and a
    count stand for all."""
    counts, met = Counter(map(_likeness, found)), Counter[_Likeness]()
    shown: list[Mapping[str, Any]] = []
    rows: list[tuple[object, ...]] = []
    for one in found:
        like = _likeness(one)
        met[like] += 1
        if counts[like] <= MOST_ALIKE or met[like] <= FEW:
            shown.append(one)
            rows.append(_row(one))
        elif met[like] == FEW + 1:
            state, bind, *rest = like
            rows.append((state, "", f"{counts[like] - FEW:,} more ({bind})", *rest))
    return shown, rows


_Likeness = tuple[object, ...]


def _likeness(one: Mapping[str, Any]) -> _Likeness:
    state, _, _, *rest = _row(one)
    return state, one["bind"], *rest


def _row(listener: Mapping[str, Any]) -> tuple[object, ...]:
    owners = listener["owners"] or ([listener["opener"]] if "opener" in listener else [])
    first = owners[0] if owners else {}
    others = f" and {len(owners) - 1} more" if len(owners) > 1 else ""
    return (
        ", ".join(listener["states"]),
        f"{listener['port']}/{listener['protocol']}",
        f"{listener['address']} ({listener['bind']})",
        first.get("pid", "-"),
        program(first) + others,
        lives_in(first),
        target_name(listener) if listener["service"] else "",
        listener["catalog"].partition(":")[0],
    )
