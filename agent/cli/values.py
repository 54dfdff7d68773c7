"""Parsers of option values. Their messages replace typer's, which use the terms of its libraries."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from pathlib import Path
from typing import TypeVar

import typer

from agent.export.agent_port import LONGEST_S
from agent.wording import did_you_mean, whole_number

Parsed = TypeVar("Parsed")
MOST_PID = 1 << 22
"""PID_MAX_LIMIT (linux/threads.h)."""
MOST_ID = (1 << 32) - 2
"""The largest uid or gid. The next number, (uid_t)-1, means none."""
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def whole(least: int, most: int) -> Callable[[object], int]:
    return lambda given: _parsed(lambda: whole_number(str(given), least, most))


def one_of(known: Collection[str]) -> Callable[[object], str]:
    def parse(given: object) -> str:
        if given in known:
            return str(given)
        listed = f"{', '.join(known)} are known"
        raise typer.BadParameter(f"{given} is not a valid value: {did_you_mean(str(given), known, listed)}")

    return parse


def new_file(text: str) -> Path:
    """A file to write, or a folder that is there. Raises BadParameter."""
    path = Path(text)
    if not text.isprintable():
        raise typer.BadParameter(f"{text!r}: a name of printable characters is expected")
    if text.endswith("/") and not path.is_dir():
        raise typer.BadParameter(f"{text}: no such folder: make it, or leave out the / to name a file")
    return path


def seconds(text: str) -> float:
    """90s, 10m, 2h, 1d. Raises BadParameter."""
    found = re.fullmatch(r"(\d{1,9})([smhd])", text.strip(), flags=re.ASCII)
    if not found or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is not a valid duration: write 90s, 10m, 2h or 1d")
    asked = float(int(found[1]) * _UNITS[found[2]])
    if asked > LONGEST_S:
        raise typer.BadParameter(
            f"{text}: at most {LONGEST_S // 86400}d; without --for the override has no deadline"
        )
    return asked


def account(given: object) -> str:
    """The name or the number of a user or a group."""
    text = str(given)
    return str(_parsed(lambda: whole_number(text, 0, MOST_ID))) if text.lstrip("-").isdecimal() else text


def _parsed(read: Callable[[], Parsed]) -> Parsed:
    try:
        return read()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from None
