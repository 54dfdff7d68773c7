"""Formats counts and invalid values, for all messages."""

from __future__ import annotations

import difflib
import itertools
from collections.abc import Collection, Iterable, Mapping
from datetime import timedelta
from typing import Any

_EXPECTED = {
    "bool": "true or false",
    "int": "a whole number",
    "float": "a number",
    "finite_number": "a number",
    "string": "text",
    "path": "a path",
    "list": "a list",
    "tuple": "a list",
    "set": "a list",
    "dict": "keys and values",
    "model": "keys and values",
    "mapping": "keys and values",
    "none": "null",
}
"""By the prefix of pydantic's error type."""
_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
    "too_short": ("min_length", "at least {} of them"),
    "too_long": ("max_length", "at most {} of them"),
    "string_too_short": ("min_length", "at least {}"),
    "string_too_long": ("max_length", "at most {}"),
}
SHOWN = 60
MOST_LISTED = 20


def counted(number: int, one: str, many: str = "") -> str:
    """1 target, 2,000 targets. `many` is the plural, if it is not `one` plus s."""
    return f"{number:,} {one if number == 1 else many or f'{one}s'}"


def lasting(length: timedelta) -> str:
    """31 days; 1 day, 2 hours and 7 seconds. Exact to the second."""
    left, parts = int(length.total_seconds()), []
    for seconds, unit in ((86400, "day"), (3600, "hour"), (60, "minute"), (1, "second")):
        many, left = divmod(left, seconds)
        parts += [counted(many, unit)] if many else []
    *first, last = parts or ["no time"]
    return f"{', '.join(first)} and {last}" if first else last


def listed(names: Collection[str]) -> str:
    """a, b, c: the first twenty, and how many there are beside these."""
    first = list(itertools.islice(names, MOST_LISTED))
    more = len(names) - len(first)
    return ", ".join(first) + (f" and {more:,} more" if more else "")


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """A question with the most similar known name; `otherwise` if none is similar."""
    near = difflib.get_close_matches(name, sorted(known), n=1, cutoff=0.6)
    return f"did you mean '{near[0]}'?" if near else otherwise


def plain(text: str) -> str:
    """The text, with what cannot be shown, or steers a terminal, escaped."""
    if text.isprintable():
        return text
    return "".join(one if one.isprintable() else ascii(one)[1:-1] for one in text)


def quoted(text: str) -> str:
    """'text', cut after SHOWN characters. What cannot be shown, or steers a terminal, is escaped."""
    return f"'{plain(text[:SHOWN])}{'…' if len(text) > SHOWN else ''}'"


def whole_number(text: str, least: int, most: int) -> int:
    """Parse a whole number. Raises ValueError that names the expected range and the given text."""
    # check the length first: Python refuses to parse a number of thousands of digits
    if text.isascii() and text.isdecimal() and len(text) <= len(str(most)) and least <= int(text) <= most:
        return int(text)
    raise ValueError(f"a whole number from {least} to {most} is expected, not {_shown(text) or 'nothing'}")


def what_is_wrong(detail: Mapping[str, Any]) -> str:
    """The message for one item of ValidationError.errors()."""
    kind, context, found = detail["type"], detail.get("ctx", {}), _shown(detail.get("input"))
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "no such key"
    if kind in ("literal_error", "enum"):
        return f"{context['expected']} is expected, not {found}".replace("'", "")
    if kind in _BOUNDS:
        limit, text = _BOUNDS[kind]
        most = counted(context[limit], "character") if kind.startswith("string_") else f"{context[limit]:g}"
        return f"{text.format(most)} is expected, not {found}"
    for begins, expected in _EXPECTED.items():
        if kind.startswith(f"{begins}_"):
            return f"{expected} is expected, not {found}"
    return str(detail["msg"]).removeprefix("Value error, ")


def _shown(value: object) -> str:
    if isinstance(value, Mapping):
        return "keys and values"
    if isinstance(value, list | tuple):
        return "a list"
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    text = str(value)
    return text if len(text) <= SHOWN else text[:SHOWN] + "…"
