"""What is mistyped on the command line is told in words of licet's own, and ends with 2."""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import typer

from agent.cli.app import app, main

Licet = Callable[..., tuple[int, str]]
THEIRS = (
    "Input should",
    "Value error",
    "Invalid value",
    "Usage:",
    "does not appear",
    "Traceback",
    "╭",
    "\\n",
)


@pytest.fixture
def licet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Licet:
    """(exit code, stderr) of the command as the shell runs it."""
    monkeypatch.setenv("LICET_CONFIG", str(tmp_path / "config.yaml"))
    (tmp_path / "config.yaml").write_text(f'paths: {{run: "{tmp_path}", policy: "{tmp_path}/policy.yaml"}}')

    def run(*arguments: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["licet", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        return int(ended.value.code or 0), capsys.readouterr().err

    return run


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ("events --limit -5", "--limit: a whole number from 0 to 100000 is expected, not -5"),
        ("events --limit x", "--limit: a whole number from 0 to 100000 is expected, not x"),
        ("events --limit 1e3", "--limit: a whole number from 0 to 100000 is expected, not 1e3"),
        ("events -n ٣", "--limit: a whole number from 0 to 100000 is expected, not \u0663"),
        ("events --limit 100001", "--limit: a whole number from 0 to 100000 is expected, not 100001"),
        ("events --limit=", "--limit: a whole number from 0 to 100000 is expected, not nothing"),
        ("events --limit", "--limit: a value is expected after it"),
        ("events --limit " + "9" * 5000, "a whole number from 0 to 100000 is expected, not 9999"),
        ("events --type violations", "--type: violations is not a valid value: did you mean 'violation'?"),
        ("events --type zzz", "--type: zzz is not a valid value: violation, use, "),
        ("mode enforc", "observe|enforce: enforc is not a valid value: did you mean 'enforce'?"),
        ("mode x", "observe|enforce: x is not a valid value: observe, enforce are known"),
        ("mode observe --for 3x", "--for: '3x' is not a valid duration: write 90s, 10m, 2h or 1d"),
        ("mode observe --for -5m", "--for: '-5m' is not a valid duration"),
        ("mode observe --for 900d", "--for: 900d: at most 366d"),
        ("explain --target db --pid x", "--pid: a whole number from 1 to 4194304 is expected, not x"),
        ("explain --target db --pid 0", "--pid: a whole number from 1 to 4194304 is expected, not 0"),
        ("explain --target db --uid -5", "--uid: a whole number from 0 to 4294967294 is expected, not -5"),
        ("explain --target db --user 4294967295", "--user: a whole number from 0 to 4294967294 is"),
        ("explain --target db --group 99999999999", "--group: a whole number from 0 to 4294967294 is"),
        ("explain --target db --from x", "--from: 'x' is not a valid address (write 10.2.0.7 or fd00::7)"),
        ("explain --target db --exe /bin/a --at x", "--at: 'x' is not a valid time (write 2027-"),
        ("explain", "--target is missing (see `licet explain --help`)"),
        ("policy test", "file is missing (see `licet policy test --help`)"),
        ("policy chek", "chek: no such command; did you mean 'check'? (see `licet policy --help`)"),
        ("stat", "stat: no such command; did you mean 'status'? (see `licet --help`)"),
        ("status --jason", "--jason: no such option; did you mean '--json'?"),
        ("status --json=1", "--json: no value is expected"),
        ("flows x y", "x y: not expected here"),
        ("events -q", "-q: no such option; there are --config, "),
        ("--config", "--config: a value is expected after it"),
    ],
)
def test_a_mistake_names_the_option_what_was_given_and_what_is_accepted(
    licet: Licet, arguments: str, told: str
) -> None:
    code, said = licet(*arguments.split(" "))
    assert code == 2
    assert said.startswith("licet: ")
    assert told in said
    assert said.count("\n") == 1
    assert not [word for word in THEIRS if word in said]


def _commands(group: typer.Typer, *above: str) -> Iterator[tuple[tuple[str, ...], Callable[..., Any]]]:
    for one in group.registered_commands:
        assert one.callback is not None
        yield (*above, one.name or one.callback.__name__), one.callback
    for inner in group.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, *above, str(inner.name))


OPTIONS = [
    pytest.param(words, name, hint, id=f"{'-'.join(words)}-{name}")
    for words, function in _commands(app)
    for name, hint in get_type_hints(function, include_extras=True).items()
    if name != "return"
]


@pytest.mark.parametrize(("words", "name", "hint"), OPTIONS)
def test_no_value_is_judged_by_a_library(words: tuple[str, ...], name: str, hint: Any) -> None:
    """Typer would let pydantic judge numbers, durations and choices."""
    kind, given = hint.__origin__, hint.__metadata__[0]
    if given.parser is None:
        assert not [word for word in ("int", "float", "Mode", "date") if word in str(kind)], kind


@pytest.mark.parametrize(("words", "name", "hint"), OPTIONS)
def test_whatever_is_given_for_an_option_is_refused_in_our_words(
    licet: Licet, words: tuple[str, ...], name: str, hint: Any
) -> None:
    given = hint.__metadata__[0]
    written = (given.default, *(given.param_decls or ()))  # beside Annotated the first one stands there
    flags = [flag for flag in written if str(flag).startswith("--")] or [f"--{name}"]
    if isinstance(given, typer.models.ArgumentInfo) or bool in (hint.__origin__, inspect._empty):
        pytest.skip("takes no value")
    option = flags[0].partition("/")[0]
    code, said = licet(*words, option)
    assert (code, said) == (2, f"licet: {option}: a value is expected after it\n")
    if given.parser is not None and name not in ("user", "group"):  # any name will do there
        code, said = licet(*words, option, "\x1b[31m\n")
        assert code == 2
        assert said.startswith(f"licet: {option}: ")
        assert "\x1b" not in said
        assert said.count("\n") == 1
