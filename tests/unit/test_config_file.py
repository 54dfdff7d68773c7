"""packaging/host/etc/config.yaml and docs/configuration.md: complete, and as agent/config.py has it."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel

from agent.config import Settings, load_settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "packaging" / "host" / "etc" / "config.yaml"


def uncommented() -> dict[str, Any]:
    """As it reads with every setting switched on; the lines before the first empty one are about the file."""
    _, _, settings = FILE.read_text().partition("\n\n")
    lines = [line.removeprefix("#").removeprefix(" ") for line in settings.splitlines()]
    read: dict[str, Any] = yaml.safe_load("\n".join(lines))
    return read


def keys_of(section: type[BaseModel]) -> Iterator[str]:
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            yield from (f"{name}.{key}" for key in keys_of(inner))
        else:
            yield name


def keys_in(read: dict[str, Any]) -> Iterator[str]:
    for name, value in read.items():
        if isinstance(value, dict):
            yield from (f"{name}.{key}" for key in keys_in(value))
        else:
            yield name


def test_as_it_is_installed_it_changes_nothing() -> None:
    assert load_settings(FILE) == Settings()


def test_what_is_commented_out_is_the_default() -> None:
    assert Settings.model_validate(uncommented()) == Settings()


def test_it_has_every_setting() -> None:
    assert sorted(keys_in(uncommented())) == sorted(keys_of(Settings))


def test_the_page_has_every_setting() -> None:
    page = (ROOT / "docs" / "configuration.md").read_text()
    assert [key for key in keys_of(Settings) if f"**`{key}`**" not in page] == []


def test_file_and_page_are_made_from_the_settings() -> None:
    generate = [sys.executable, ROOT / "packaging" / "configuration.py", "--check"]
    done = subprocess.run(generate, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
