"""What a PromQL expression asks for, as far as names and labels go."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

_STRING = r'"(?:[^"\\]|\\.)*"'
_SELECTOR = re.compile(
    rf"(?<![\w:$])((?:licet|process|service|license|version|instance)[_:][\w:]+|up)\b(?:\{{((?:{_STRING}|[^}}\"])*)\}})?"
)
_MATCHER = re.compile(rf"(\w+)\s*(?:=~|!~|!=|=)\s*{_STRING}")
_GROUPING = re.compile(r"\b(?:by|on|without|ignoring)\s*\(([^)]*)\)")
_TYPE = re.compile(r"# TYPE (\S+)")


def selectors(expression: str) -> Iterator[tuple[str, set[str]]]:
    """(metric, labels that are matched) of each selector."""
    for name, inside in _SELECTOR.findall(expression):
        yield name, set(_MATCHER.findall(inside))


def grouped_by(expression: str) -> set[str]:
    return {label.strip() for group in _GROUPING.findall(expression) for label in group.split(",")}


def golden_labels(golden: Path) -> dict[str, set[str]]:
    """Labels by metric, from an exposition."""
    text = golden.read_text()
    found: dict[str, set[str]] = {name: set() for name in _TYPE.findall(text)}
    for line in text.splitlines():
        if not line.startswith("#"):
            name = re.split(r"[{ ]", line, maxsplit=1)[0]
            found.setdefault(name, set()).update(re.findall(r"[{,](\w+)=", line))
    return found
