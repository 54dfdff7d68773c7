"""`licet mode`, against the real servers on a real unix socket."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from agent.cli.app import app
from agent.cli.values import seconds
from agent.errors import KernelError, ModeError
from agent.export.agent_port import Caller, ModeRequest
from agent.model import Mode
from tests.unit.export.fake_agent import MODES, FakeAgent
from tests.unit.export.serving import serving

Licet = Callable[..., Result]
ADMIN = {"service": "orders-db", "class": "admin"}
REFUSED = {
    "consumer": "psql",
    "service": "orders-db",
    "class": "internal",
    "reason": "unlicensed_principal",
    "attempts": 1234,
    "since": "2026-05-01T13:00:00.000000Z",
    "last": "2026-05-01T14:00:01.000000Z",
}


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeAgent, Path]]:
    """One server for all: a stop takes longer than most of these tests."""
    folder = tmp_path_factory.mktemp("licet")
    path, agent = folder / "config.yaml", FakeAgent()
    path.write_text(json.dumps({"paths": {"run": str(folder / "run")}}))
    with serving(agent, folder / "run" / "control.sock"):
        yield agent, path


@pytest.fixture
def agent(served: tuple[FakeAgent, Path]) -> FakeAgent:
    agent = served[0]
    agent.mode_requests, agent.fails_with, agent.mode_answer = [], None, {}
    agent.turns_to_enforce, agent.would_be_refused = [ADMIN], [REFUSED]
    return agent


@pytest.fixture
def config(agent: FakeAgent, served: tuple[FakeAgent, Path]) -> Path:
    return served[1]


@pytest.fixture
def licet(config: Path) -> Licet:
    def run(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["mode", *arguments, "--config", str(config)])

    return run


def at_a_terminal(config: Path, *arguments: str, says: str) -> tuple[int, str]:
    """The command as a person runs it: (exit code, all that it wrote)."""
    ours, theirs = pty.openpty()
    try:
        os.write(ours, f"{says}\n".encode())
        done = subprocess.run(
            [sys.executable, "-c", "from agent.cli.app import main; main()", "mode", *arguments],
            env={**os.environ, "LICET_CONFIG": str(config)},
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=30,
            check=False,
        )
    finally:
        os.close(theirs)
        os.close(ours)
    return done.returncode, done.stdout


def test_the_table_says_what_holds_and_why(licet: Licet) -> None:
    shown = licet().stdout
    assert [line.split() for line in shown.splitlines()[1:3]] == [
        ["orders-db/internal", "enforce", "override", "9", "min", "59", "s", "observe"],
        ["orders-db/admin", "observe", "policy", "observe"],
    ]
    assert "uid 0 (pid 4711)" in shown
    assert "gates attached: connect, bind" in shown
    assert json.loads(licet("--json").stdout) == dict(MODES)


def test_observing_needs_no_question(licet: Licet, agent: FakeAgent) -> None:
    agent.turns_to_enforce = []
    result = licet("observe", "--target", "orders-db", "--for", "10m")
    assert result.exit_code == 0, result.output
    ((request, caller),) = agent.mode_requests
    assert request == ModeRequest("orders-db", Mode.OBSERVE, 600.0)
    assert caller == Caller(uid=os.getuid(), pid=os.getpid())


def test_enforcing_without_a_terminal_needs_yes(licet: Licet, agent: FakeAgent) -> None:
    result = licet("enforce")
    assert (result.exit_code, agent.mode_requests) == (2, [])
    for part in (
        "switches to enforce: orders-db/admin",
        "psql",
        "unlicensed_principal",
        "1,234",
        "Use --yes",
    ):
        assert part in result.stderr
    assert licet("enforce", "--yes").exit_code == 0
    assert agent.mode_requests[0][0] == ModeRequest(None, Mode.ENFORCE)


def test_json_stays_json_beside_the_preview(licet: Licet) -> None:
    result = licet("enforce", "--yes", "--json")
    assert json.loads(result.stdout)["mode"] == "enforce"
    assert "psql" in result.stderr


def test_a_person_is_asked_and_can_refuse(config: Path, agent: FakeAgent) -> None:
    code, shown = at_a_terminal(config, "enforce", says="n")
    assert (code, agent.mode_requests) == (1, [])
    assert "Refuse these from now on?" in shown
    assert "nothing has changed" in shown
    code, shown = at_a_terminal(config, "enforce", says="y")
    assert (code, len(agent.mode_requests)) == (0, 1), shown


def test_a_preview_with_nobody_in_it_says_so(licet: Licet, agent: FakeAgent) -> None:
    agent.would_be_refused = []
    assert "no attempt of the last hour would have been refused" in licet("enforce", "--yes").stderr


def test_a_preview_says_what_is_not_known(licet: Licet, agent: FakeAgent) -> None:
    agent.would_be_unknown = [{**agent.would_be_refused[0], "consumer": "nightly", "open": 4}]
    agent.would_be_refused = []
    agent.known_since = "2026-05-01T14:02:00Z"
    said = licet("enforce", "--yes").stderr
    assert "usage is known since 2026-05-01T14:02:00Z" in said
    assert "no known consumer of the last hour would have been refused" in said
    (row,) = [line.split() for line in said.splitlines() if line.startswith("nightly")]
    assert row[:4] == ["nightly", "orders-db/internal", "1,234", "4"]


def test_a_preview_says_how_to_name_who_serves_what_others_own(licet: Licet, agent: FakeAgent) -> None:
    agent.would_be_refused = []
    agent.strangers = [
        {
            "service": "web", "class": "public", "address": "0.0.0.0", "port": 80, "how": "listened",
            "exe": "/usr/sbin/nginx", "user": "root", "unit": "session-1.scope", "times": 2,
            "last": "2026-05-01T14:12:11.000000Z",
        }
    ]  # fmt: skip
    said = licet("enforce", "--yes").stderr
    for part in ("web/public", "0.0.0.0:80", "listened", "/usr/sbin/nginx", "root", "session-1.scope"):
        assert part in said, part
    assert "{exe: PROGRAM, user: USER}" in said


def test_a_reset_asks_only_where_it_turns_to_enforce(licet: Licet, agent: FakeAgent) -> None:
    assert licet("--reset").exit_code == 2
    agent.turns_to_enforce = []
    assert licet("--reset", "--target", "orders-db/admin").exit_code == 0
    assert [request for request, _ in agent.mode_requests] == [ModeRequest("orders-db/admin", None)]


def test_the_answer_says_what_was_replaced_and_what_stays(licet: Licet, agent: FakeAgent) -> None:
    until = "2026-05-01T14:12:11.000000Z"
    agent.mode_answer = {
        "made": [{"scope": None, "mode": "enforce", "until": until}],
        "previous": [{"scope": None, "mode": "observe", "until": None}],
        "narrower": [{"scope": "orders-db/admin", "mode": "observe", "until": None}],
    }
    shown = licet("enforce", "--yes", "--for", "10m").stdout
    assert shown.splitlines() == [
        "the host: enforce until 2026-05-01T14:12:11Z, then the policy's mode",
        "  replaces observe of the host, which is not restored later",
        "  observe of orders-db/admin stays in force: licet mode --reset --target orders-db/admin removes it",
        "1 of 2 targets enforce; gates attached: connect, bind",
    ]


def test_what_follows_an_override_may_be_the_hosts(licet: Licet, agent: FakeAgent) -> None:
    agent.turns_to_enforce = []
    of_db = {"scope": "orders-db/admin", "mode": "observe", "until": "2026-05-01T14:12:11.000000Z"}
    of_host = {**MODES["overrides"][0], "scope": None}
    agent.mode_answer = {"made": [of_db], "overrides": [of_host]}
    shown = licet("observe", "--target", "orders-db/admin", "--for", "10m").stdout
    assert "until 2026-05-01T14:12:11Z, then the override of the host\n" in shown
    agent.mode_answer = {"previous": [of_db], "overrides": []}
    shown = licet("--reset", "--target", "orders-db/admin").stdout
    assert shown.startswith("orders-db/admin: the policy's mode\n")


@pytest.mark.parametrize(
    "arguments",
    [
        ("enforced",),
        ("observe", "--reset"),
        ("--for", "10m"),
        ("--reset", "--for", "10m"),
        ("--target", "orders-db"),
        ("observe", "--for", "soon"),
        ("observe", "--for", "0s"),
        ("observe", "--for", "-1m"),
        ("observe", "--for", "1w"),
    ],
)
def test_what_makes_no_sense_is_a_usage_error(
    licet: Licet, agent: FakeAgent, arguments: tuple[str, ...]
) -> None:
    result = licet(*arguments)
    assert (result.exit_code, agent.mode_requests) == (2, [])
    assert "Traceback" not in result.output


@pytest.mark.parametrize(("text", "expected"), [("90s", 90), ("10m", 600), ("2h", 7200), ("1d", 86400)])
def test_durations(text: str, expected: float) -> None:
    assert seconds(text) == expected


@pytest.mark.parametrize("text", ["", "10", "m", "1.5h", "1h30m", "٣m", "10M", "9" * 20 + "s"])
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(typer.BadParameter, match="write 90s"):
        seconds(text)


@pytest.mark.parametrize("error", [ModeError("no service 'x'"), KernelError("a gate cannot be attached")])
def test_what_the_agent_refuses_fails_the_command(licet: Licet, agent: FakeAgent, error: Exception) -> None:
    agent.fails_with, agent.turns_to_enforce = error, []
    result = licet("observe")
    assert result.exit_code == 1
    assert str(error) in str(result.exception)


def test_a_mode_without_a_daemon_says_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"paths": {"run": str(tmp_path / "none")}}))
    result = CliRunner().invoke(app, ["mode", "enforce", "--yes", "--config", str(path)])
    assert result.exit_code == 1
    assert "licet run" in result.stderr
