"""What is said of the policy in force while its files are refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.app import app
from agent.policy.document.load import Source
from agent.state_files import State

GOOD = """\
version: 1
services:
  db: {product: acme, ports: [{port: 5432, class: internal}]}
principals: {ops: [{uid: 1001}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [ops]}]}
"""
EXPLAIN = ("explain", "--target", "db", "--uid", "1001")


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "config.yaml"
    paths = {
        "policy": tmp_path / "policy.yaml",
        "policy_dir": tmp_path / "policy.d",
        "state": tmp_path / "state",
    }
    path.write_text(json.dumps({"paths": {name: str(place) for name, place in paths.items()}}))
    (tmp_path / "policy.yaml").write_text(GOOD.replace("services", "servces"))
    return path


@pytest.fixture
def kept(config: Path) -> None:
    file = config.with_name("policy.yaml")
    State(config.with_name("state")).keep_policy([Source(str(file), GOOD.encode())])


def licet(config: Path, *words: str) -> Result:
    return CliRunner().invoke(app, [*words, "--config", str(config)])


@pytest.mark.parametrize("words", [("policy", "show"), EXPLAIN])
def test_mistakes_are_told_with_how_to_see_what_is_in_force(
    config: Path, kept: None, words: tuple[str]
) -> None:
    said = str(licet(config, *words).exception)
    assert "unknown key 'servces'" in said
    assert said.endswith("see --in-force")
    ended = licet(config, *words, "--in-force")
    assert ended.exit_code == 0
    assert "ops" in ended.stdout


@pytest.mark.parametrize("words", [("policy", "show"), EXPLAIN])
def test_where_none_has_been_in_force_none_is_promised(config: Path, words: tuple[str]) -> None:
    assert "--in-force" not in str(licet(config, *words).exception)
    assert "no policy has been in force on this host yet" in str(
        licet(config, *words, "--in-force").exception
    )


def test_a_file_beside_it_is_a_mistake(config: Path, kept: None) -> None:
    said = str(licet(config, "policy", "show", str(config), "--in-force").exception)
    assert "do not give a file with it" in said


def test_one_that_is_damaged_is_an_error(config: Path, kept: None) -> None:
    (config.with_name("state") / "policy.json").write_text("{")
    assert "damaged" in str(licet(config, "policy", "show", "--in-force").exception)
