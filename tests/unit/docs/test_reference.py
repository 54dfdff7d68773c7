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


def test_every_option_in_the_page_of_licenses_is_one_of_its_command() -> None:
    group: Any = typer.main.get_command(app)
    known = {
        f"license {name}": {flag for one in command.params for flag in one.opts}
        for name, command in group.commands["license"].commands.items()
    }
    text = (DOCS / "licenses.md").read_text().replace("\\\n", " ")
    used = re.findall(r"licet (license \w+)([^\n`]*)", text)
    # what stands in quotes are options of another program
    wrong = [
        (name, flag)
        for name, rest in used
        for flag in re.findall(r"(?<=\s)--[\w-]+", re.sub(r'"[^"]*"', "", rest))
        if flag not in known[name]
    ]
    assert wrong == []
    assert {name for name, _ in used} == set(known)
