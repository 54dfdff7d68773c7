"""Before a commit the same runs as in `make lint`, and templates are what the forge reads."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

ROOT = Path(__file__).parents[3]


def test_before_a_commit_runs_what_lint_runs() -> None:
    recipe = (ROOT / "Makefile").read_text().split("\nlint:")[1].split("\n\n")[0]
    commands = re.findall(r"^\t(?:\$\(BIN\)/)?(\S+)(.*)$", recipe, re.MULTILINE)
    config = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())
    hooks = [hook["entry"].removeprefix(".venv/bin/").split() for hook in config["repos"][0]["hooks"]]
    assert sorted(tool for tool, _ in commands) == sorted(hook[0] for hook in hooks)


def test_a_form_has_what_the_forge_asks_of_it() -> None:
    forms = sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml"))
    read = {form.stem: yaml.safe_load(form.read_text()) for form in forms}
    assert sorted(read) == ["bug", "config", "idea"]
    for name in ("bug", "idea"):
        assert {"name", "description", "body"} <= set(read[name])
        identified = [part["id"] for part in read[name]["body"] if part["type"] != "markdown"]
        assert len(set(identified)) == len(identified)
