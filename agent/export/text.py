"""Text that comes from processes (names, arguments, paths) made fit to be written down.

A path is bytes. Python keeps those that are not UTF-8 as lone surrogates (PEP 383), which neither JSON nor
metrics can carry: one odd file name would otherwise cost a whole answer."""

from __future__ import annotations

import json
import re

_LONE_SURROGATE = re.compile("[\ud800-\udfff]")
_NOT_PLAIN = re.compile("[^ -~\n]")


def encodable(text: str) -> str:
    r"""Bytes that are not UTF-8 as \xNN."""
    return text if text.isascii() else _LONE_SURROGATE.sub(lambda one: _byte(one, "\\"), text)


def printable(text: str) -> str:
    """For a terminal: nothing in a name can move the cursor, start a line or change a color."""
    if text.isprintable():
        return text
    return "".join(
        one if one.isprintable() else one.encode("unicode_escape").decode() for one in encodable(text)
    )


def to_json(value: object, indent: int | None = None) -> str:
    """UTF-8 JSON, whatever the strings in it: one line without `indent`. What would steer a terminal, or turn
    the direction of text, is escaped."""
    separators = (",", ":") if indent is None else (",", ": ")
    text = json.dumps(value, ensure_ascii=False, indent=indent, separators=separators)
    return text if text.isascii() and "\x7f" not in text else _NOT_PLAIN.sub(_escaped, text)


def _escaped(one: re.Match[str]) -> str:
    if _LONE_SURROGATE.match(one[0]):
        return _byte(one, "\\\\")
    return one[0] if one[0].isprintable() else json.dumps(one[0])[1:-1]


def _byte(surrogate: re.Match[str], backslash: str) -> str:
    return f"{backslash}x{ord(surrogate[0]) & 0xFF:02x}"
