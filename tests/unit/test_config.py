"""Settings: every mistake with file, line, key and, where there is one, the name that was meant."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.config import Settings, load_settings
from agent.errors import ConfigError


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("scope:\n  cgroop: /x\n", "2: scope.cgroop: no such setting; did you mean 'cgroup'?"),
        ("\ncolour: red\n", "2: colour: no such setting; there are scope, paths, listen,"),
        ("listen: [a]\n", "1: listen: Input should be a valid string"),
        ("listen: nowhere\n", "1: listen: 'nowhere' is not HOST:PORT"),
        ("costs: true\nintervals:\n  summary: -1\n", "3: intervals.summary: Input should be greater than 0"),
        (
            "scope:\n  namespaces:\n    - /a\n    - 7\n",
            "4: scope.namespaces.1: Input should be a valid string",
        ),
        ("a: [1\nb: 2\n", "2: not YAML: expected ',' or ']'"),
        ("costs: !!int ''\n", " a value that does not fit its tag"),
        ("- a\n", "1: expected a mapping of settings, found list"),
    ],
)
def test_a_mistake_is_told_with_its_line_and_key(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert str(caught.value).startswith(f"{file}:{told}")


def test_every_mistake_is_told_at_once(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("costs: maybe\nedges: often\n")
    with pytest.raises(ConfigError) as caught:
        load_settings(file)
    assert [line.split(": ")[0] for line in str(caught.value).splitlines()] == [f"{file}:1", f"{file}:2"]


def test_an_empty_file_means_the_defaults(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_text("# nothing\n")
    assert load_settings(file) == Settings()
