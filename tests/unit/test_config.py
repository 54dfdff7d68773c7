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
        ("listen: [a]\n", "1: listen: text is expected, not a list"),
        ("listen: nowhere\n", "1: listen: 'nowhere' is not a valid HOST:PORT"),
        ("costs: true\nintervals:\n  summary: -1\n", "3: intervals.summary: more than 0 is expected, not -1"),
        (
            "scope:\n  namespaces:\n    - /a\n    - 7\n",
            "4: scope.namespaces.1: text is expected, not 7",
        ),
        ("a: [1\nb: 2\n", "2: not YAML: did not find expected ',' or ']'"),
        ("costs: !!int ''\n", "1: '' is not a plain decimal number"),
        ("costs: true\nguard: {failsafe_ports: [0443]}\n", "2: '0443' is not a plain decimal number"),
        ("intervals:\n  summary: 1:30\n", "2: '1:30' is not a plain decimal number"),
        ("listen: " + "[" * 900 + "]" * 900, "1: nested deeper than 16 levels"),
        ("costs: true\ncosts: false\n", "2: key 'costs' was already given at line 1"),
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
