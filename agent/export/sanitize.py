"""Makes text from processes (names, arguments, paths) safe to write.

A path is bytes. Python stores bytes that are not UTF-8 as lone surrogates (PEP 383). Neither JSON nor metrics
can carry those, so one odd file name would otherwise break a whole answer."""

from __future__ import annotations

import json
import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_ONE_LINE = json.JSONEncoder(ensure_ascii=False, separators=(",", ":")).encode
_NOT_PLAIN = re.compile("[^ -~\n]")


def encodable(text: str) -> str:
    r"""The text with bytes that are not UTF-8 written as \xNN."""
    return text if text.isascii() else _LONE_SURROGATE.sub(lambda one: _byte(one, "\\"), text)


def printable(text: str) -> str:
    """The text for a terminal: no name can move the cursor, start a line or change a color."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in encodable(text)
    )


def to_json(value: object, indent: int | None = None) -> str:
    """JSON in UTF-8 for any strings; one line without `indent`. Characters that steer a terminal, or that
    turn the direction of text, are escaped."""
    text = _ONE_LINE(value) if indent is None else json.dumps(value, ensure_ascii=False, indent=indent)
    return text if text.isascii() and "\x7f" not in text else _NOT_PLAIN.sub(_escaped, text)


def _escaped(one: re.Match[str]) -> str:
    if _LONE_SURROGATE.match(one[0]):
        return _byte(one, "\\\\")
    return one[0] if one[0].isprintable() else json.dumps(one[0])[1:-1]


def _byte(surrogate: re.Match[str], backslash: str) -> str:
    return f"{backslash}x{ord(surrogate[0]) & 0xFF:02x}"
