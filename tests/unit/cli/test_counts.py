"""One of a thing is told as one, by every command that counts."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.wording import counted
from tests.unit.export.fake_agent import MODES, STATUS, FakeAgent
from tests.unit.export.serving import serving

ONE_OF_MANY = re.compile(r"\b1 (?!of\b)(?:\w+ )?\w+s\b(?<!uses)(?<!holds)(?<!enforces)(?<!follows)")
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7421, class: internal}]}
principals:
  ops: [{uid: 4242}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [ops]}]}
"""
CASES = "cases: [{target: db, consumer: {uid: 4242}, expect: allowed}]"
MODE = {**MODES["targets"][0], "until": None, "seconds_left": None}


def ones(value: Any) -> Any:
    """Each number in it is 1, and each list has one member."""
    if isinstance(value, dict):
        return {key: ones(each) for key, each in value.items()}
    if isinstance(value, list):
        return [ones(each) for each in value[:1]]
    return 1 if isinstance(value, int | float) and not isinstance(value, bool) else value


@pytest.fixture
def licet(tmp_path: Path) -> Iterator[Callable[..., str]]:
    agent = FakeAgent(status_fields=ones(dict(STATUS)), mode_answer={"targets": [MODE], "overrides": []})
    agent.turns_to_enforce = [{"service": "orders-db", "class": "admin"}]
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "wrong.yaml").write_text(POLICY.replace("version: 1", "version: 9"))
    (tmp_path / "cases.yaml").write_text(CASES)
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"paths": {"run": str(tmp_path), "policy": str(tmp_path / "policy.yaml")}}))

    def run(line: str) -> str:
        words = [word.replace("DIR", str(tmp_path)) for word in line.split()]
        return CliRunner().invoke(app, [*words, "--config", str(config)]).output

    with serving(agent, tmp_path / "control.sock"):
        yield run


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("status", "1 target, 1 grant"),
        ("mode enforce --yes", "1 of 1 target enforces"),
        ("policy check DIR/policy.yaml", "1 target, 1 principal, 1 license"),
        ("policy check DIR/wrong.yaml", "1 error"),
        ("policy test DIR/cases.yaml", "1 of 1 case holds"),
        ("listeners", "postgres"),
        ("flows", "curl"),
    ],
)
def test_one_is_told_as_one(licet: Callable[[str], str], line: str, told: str) -> None:
    said = licet(line)
    assert told in said
    assert not ONE_OF_MANY.findall(said)


def test_counted() -> None:
    assert counted(1, "target") == "1 target"
    assert counted(0, "target") == "0 targets"
    assert counted(2000, "case holds", "cases hold") == "2,000 cases hold"
