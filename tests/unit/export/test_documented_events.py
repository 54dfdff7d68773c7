"""docs/events.md: what it shows is what is written, every type of it."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from agent.export import events
from agent.export.envelope import SCHEMA, severity
from agent.export.human import human_line

ROOT = Path(__file__).parents[3]
DOCUMENT = (ROOT / "docs" / "events.md").read_text(encoding="utf-8")
EXAMPLES: list[dict[str, Any]] = [
    json.loads(text) for text in re.findall(r"```json\n(.*?)```", DOCUMENT, flags=re.DOTALL)
]
TYPES = {
    name
    for row in re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| .* \| .* \|$", DOCUMENT.split("## ")[0], flags=re.MULTILINE
    )
    for name in re.findall(r"\w+", row)
}


def test_every_type_has_an_example() -> None:
    assert {example["type"] for example in EXAMPLES} == TYPES
    assert set(events.TYPES) == TYPES


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_an_example_is_an_event_that_people_can_read(example: dict[str, Any]) -> None:
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z", example["time"])
    line = human_line(example)
    assert "\n" not in line
    assert example["type"] in line or example.get("reason", "?") in line.lower()


def test_an_example_of_the_log_has_what_every_event_has() -> None:
    for example in EXAMPLES:
        if example["type"] != "missed":
            assert (example["schema"], example["severity"]) == (SCHEMA, severity(example))
            assert example["host"]
            assert set(example["policy"]) == {"generation", "sha256"}


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda example: example["type"])
def test_every_field_of_an_example_is_explained(example: dict[str, Any]) -> None:
    explained = set(re.findall(r"`(\w+)`", DOCUMENT))
    names = set(example)
    for part in ("policy", "consumer", "owner", "acceptor", "tuple", "counts", "caller"):
        names |= set(example.get(part, {}))
    assert names <= explained


def test_the_first_page_shows_events_as_they_look() -> None:
    _, _, shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("$ licet events\n")
    lines = shown.partition("$ ")[0].splitlines()
    assert len(lines) > 2
    assert set(lines) <= {human_line(example) for example in EXAMPLES}
