"""The commands that ask a daemon, against the real servers on a real unix socket."""

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli.app import app
from agent.model import Process
from tests.unit.export.fake_agent import INTERNAL, STATUS, FakeAgent, flow, judged_listener
from tests.unit.export.serving import serving

Licet = Callable[..., str]


@pytest.fixture
def agent() -> FakeAgent:
    return FakeAgent()


@pytest.fixture
def licet(agent: FakeAgent, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Licet]:
    """What `licet ARGUMENTS` prints, where it ends well."""
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"paths": {"run": str(tmp_path / "run")}}))
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()

    def run(*arguments: str) -> str:
        result = CliRunner().invoke(app, [*arguments, "--config", str(config)])
        assert result.exit_code == 0, result.output
        return result.stdout

    with serving(agent, tmp_path / "run" / "control.sock"):
        yield run
    monkeypatch.undo()
    time.tzset()


def violation(**changes: Any) -> dict[str, Any]:
    return {
        "type": "violation",
        "time": "2026-05-01T14:02:11.500000Z",
        "decision": "denied",
        "reason": "no_license",
        "service": "orders-db",
        "class": "admin",
        "consumer": {"identity": "process", "pid": 7, "comm": "curl", "uid": 0},
        "owner": {},
        "tuple": {"protocol": "tcp", "dst": "127.0.0.1", "dport": 9187},
        **changes,
    }


def test_status_shows_all_that_an_operator_asks_first(licet: Licet) -> None:
    shown = licet("status")
    for part in (
        "0.1.0, pid 900, up 1 h 2 min",
        "observe",
        "http://127.0.0.1:9477/metrics",
        "release 6.18.0, bcc 0.26.0",
        "cgroup /, namespaces all",
        "generation 7: 2 targets, 1 grants (/etc/licet/policy.yaml)",
        "warning: policy.yaml:9: principal 'ci' matches nothing",
        "the last reload failed: policy.yaml:3: unknown key 'servces'",
        "4 open, 12 opened, 8 closed",
        "event_sink 5",
        "48.5 MB",
        "fexit: not permitted",
        "65536",
        "unix sockets",
    ):
        assert part in shown
    assert "ring_full" not in shown  # nothing was lost there


def test_status_json_is_what_the_agent_says(licet: Licet) -> None:
    assert json.loads(licet("status", "--json")) == dict(STATUS)


def test_flows_show_both_processes_and_only_the_target_asked_for(licet: Licet, agent: FakeAgent) -> None:
    agent.flow_rows = [(INTERNAL, flow(acceptor=Process(pid=813, comm="worker")))]
    shown = licet("flows")
    for part in ("orders-db/internal", "curl[4711]", "postgres[812]", "worker[813]", "127.0.0.1:5432"):
        assert part in shown
    assert json.loads(licet("flows", "--json", "--target", "orders-db"))[0]["consumer"]["pid"] == 4711
    assert json.loads(licet("flows", "--json", "--target", "orders-db/admin")) == []
    assert licet("flows", "--target", "orders-db/admin") == "no open flow to orders-db/admin\n"


def test_a_cell_is_whole_where_no_terminal_limits_it(licet: Licet, agent: FakeAgent) -> None:
    agent.listener_rows = [judged_listener(explanation="why " * 100)]
    assert ("why " * 100).strip() in licet("listeners")


def test_listeners_show_what_is_wrong_and_can_leave_out_what_is_fine(licet: Licet, agent: FakeAgent) -> None:
    shown = licet("listeners")
    for part in ("0.0.0.0:5432", "any", "postgres[812]", "declared, exposed_port", "listen on 127.0.0.1"):
        assert part in shown
    fine = judged_listener(states=agent.listener_rows[0].states[:1], explanation="")
    agent.listener_rows = [fine]
    assert licet("listeners", "--judged") == "no listener that should not be there\n"
    assert json.loads(licet("listeners", "--judged", "--json")) == []
    assert "postgres[812]" in licet("listeners", "--all")


def test_events_are_readable_lines_or_the_lines_of_the_sink(licet: Licet, agent: FakeAgent) -> None:
    agent.log.write(violation())
    agent.log.write({"type": "stopped", "time": "2026-05-01T14:02:12.000000Z"})
    assert licet("events").splitlines() == [
        "14:02:11 DENIED no_license orders-db/admin  curl[7] uid=0 → 127.0.0.1:9187",
        "14:02:12 stopped",
    ]
    assert [json.loads(line) for line in licet("events", "--json").splitlines()] == agent.log.recent(2)
    assert licet("events", "--limit", "1") == "14:02:12 stopped\n"
    assert len(licet("events", "--limit", "1", "--type", "violation").splitlines()) == 1


def test_a_program_name_can_not_color_a_table(licet: Licet, agent: FakeAgent) -> None:
    agent.flow_rows = [(INTERNAL, flow(consumer=Process(pid=9, comm="\x1b[31m[red]x")))]
    shown = licet("flows")
    assert "\x1b" not in shown
    assert r"\x1b[31m[red]x[9]" in shown
