"""Templates of license documents: YAML or JSON of the payload's fields."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import typer

from agent.errors import LicetError
from agent.license import strict_json
from agent.license.payload import license_from
from agent.license.values import LicenseDocument, Malformed
from agent.policy.document.yamltext import Text, Unreadable, parse_content, read_content
from agent.policy.findings import policy_errors
from agent.policy.values import Finding

MOST_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Given:
    """A value from the command line that replaces a field of the template."""

    option: str
    value: object


def read_template(path: Path) -> Text:
    """The template with the line of each field. Raises PolicyErrors, and LicetError for a signed file."""
    try:
        content = read_content(path, MOST_BYTES, "make two licenses of it")
        if content.lstrip().startswith(b"{") and (found := _json(content)):
            _refuse_signed(path, found[0])
            return Text(str(path), found[0], _lines(content))
        return parse_content(content, str(path))
    except Unreadable as error:
        raise policy_errors(error.findings) from error


def _refuse_signed(path: Path, value: Any) -> None:
    if isinstance(value, dict) and {"payload", "payloadType", "signatures"} <= value.keys():
        remedy = "give the template that it was made from; `licet license show --json` shows its fields"
        raise LicetError(f"{path}: it is signed already, and no template: {remedy}")


def filled_in(template: Text, default: Mapping[str, Any], instead: Mapping[str, Given]) -> LicenseDocument:
    """The document of a template. `default` stands for fields that are absent, `instead` replaces fields.

    Raises PolicyErrors with file and line, or BadParameter for a mistake of the command line."""
    raw = template.data
    if isinstance(raw, dict):
        raw = {**default, **raw, **{name: one.value for name, one in instead.items()}}
    try:
        return license_from(raw)
    except Malformed as error:
        field = error.location[0] if error.location else ""
        if field in instead:
            raise typer.BadParameter(str(error), param_hint=instead[str(field)].option) from error
        place = template.place(error.location)
        raise policy_errors([Finding(place, error.reason, error.remedy)]) from error


def _json(content: bytes) -> tuple[Any] | None:
    """The value of strict JSON. YAML reads numbers and escapes of JSON differently."""
    try:
        return (strict_json.parse(content),)
    except Malformed:
        return None


def _lines(content: bytes) -> Mapping[tuple[str | int, ...], int]:
    try:
        return parse_content(content, "").lines
    except Unreadable:
        return {}
