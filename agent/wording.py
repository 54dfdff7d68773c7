"""What is wrong with a value that pydantic refused, in the words that all other messages have."""

from __future__ import annotations

from collections.abc import Mapping
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
"""By how the type of a mistake begins."""
_BOUNDS = {
    "greater_than": ("gt", "more than {}"),
    "greater_than_equal": ("ge", "at least {}"),
    "less_than": ("lt", "less than {}"),
    "less_than_equal": ("le", "at most {}"),
    "too_short": ("min_length", "at least {} of them"),
    "too_long": ("max_length", "at most {} of them"),
    "string_too_short": ("min_length", "at least {} characters"),
    "string_too_long": ("max_length", "at most {} characters"),
}
SHOWN = 60


def what_is_wrong(detail: Mapping[str, Any]) -> str:
    """Of one of ValidationError.errors()."""
    kind, context, found = detail["type"], detail.get("ctx", {}), _shown(detail.get("input"))
    if kind == "missing":
        return "is missing"
    if kind == "extra_forbidden":
        return "no such key"
    if kind in ("literal_error", "enum"):
        return f"{context['expected']} is expected, not {found}".replace("'", "")
    if kind in _BOUNDS:
        limit, text = _BOUNDS[kind]
        return f"{text.format(f'{context[limit]:g}')} is expected, not {found}"
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
