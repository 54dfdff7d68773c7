"""Every key of a policy and every command is in a page. Metrics and events: tests/unit/export."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

from agent.cli.app import app
from agent.policy.document import schema
from agent.policy.document.draft import SECTIONS
from agent.policy.document.expectations import CaseItem, ConsumerItem, FileItem
from agent.policy.document.load import parse_policy
from agent.policy.terms.container_selector import ContainerSelector
from agent.policy.values import UndeclaredListeners
from tests.unit.docs.pages import DOCS, PAGES, blocks

REFERENCE = (DOCS / "policy.md").read_text()
ITEMS = (
    schema.ServiceItem,
    schema.PortItem,
    schema.SelectorItem,
    schema.LicenseItem,
    schema.EntitlementItem,
    schema.ExclusionItem,
    FileItem,
    CaseItem,
    ConsumerItem,
)
EXAMPLES = [
    (page, text)
    for page in PAGES
    for text in blocks(page.read_text(), "yaml")
    if text.startswith("version: 1\n")
]


def keys() -> Iterator[str]:
    yield from SECTIONS
    yield from UndeclaredListeners
    yield from (each.name for each in dataclasses.fields(ContainerSelector))
    for item in ITEMS:
        yield from (field.alias or name for name, field in item.model_fields.items())


def commands(command: Any, path: str) -> Iterator[str]:
    """`command`: typer's own copy of click's."""
    for name, each in getattr(command, "commands", {}).items():
        yield from commands(each, f"{path} {name}")
    if not hasattr(command, "commands"):
        yield path


def test_every_key_of_a_policy_is_in_the_reference() -> None:
    assert [key for key in keys() if not re.search(rf"\b{key}\b", REFERENCE)] == []


@pytest.mark.parametrize(("page", "text"), EXAMPLES, ids=lambda value: getattr(value, "stem", ""))
def test_a_policy_in_a_page_has_no_mistake(page: Path, text: str) -> None:
    assert parse_policy(text, page.name).services


def test_every_command_is_in_a_page() -> None:
    text = "\n".join(page.read_text() for page in PAGES)
    every = list(commands(typer.main.get_command(app), "licet"))
    assert len(every) > 10
    assert [command for command in every if not re.search(rf"{command}\b", text)] == []


def options(command: Any, path: str) -> Iterator[tuple[str, set[str]]]:
    """(command, its options) for each command."""
    for name, each in getattr(command, "commands", {}).items():
        yield from options(each, f"{path} {name}")
    if not hasattr(command, "commands"):
        flags = {flag for one in command.params for flag in (*one.opts, *one.secondary_opts)}
        yield path, flags | {"--help"}


def unknown_options(text: str) -> list[tuple[str, str]]:
    """(command, option) for what a page names and the command does not have."""
    known = dict(options(typer.main.get_command(app), "licet"))
    named = "|".join(sorted(known, key=len, reverse=True))
    used = re.findall(rf"({named})\b([^\n`;|#]*)", text.replace("\\\n", " "))
    # what stands in quotes are options of another program
    return [
        (name, flag)
        for name, rest in used
        for flag in re.findall(r"(?<=\s)--[\w-]+", re.sub(r'"[^"]*"', "", rest))
        if flag not in known[name]
    ]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_every_option_in_a_page_is_one_of_its_command(page: Path) -> None:
    assert unknown_options(page.read_text()) == []


def test_an_option_that_a_command_does_not_have_is_found() -> None:
    assert unknown_options("`licet explain --target a --from b`, `licet version`") == []
    assert unknown_options("`licet explain --target a --address b`") == [("licet explain", "--address")]
    assert unknown_options("licet license issue x \\\n --until DAY --no") == [("licet license issue", "--no")]
