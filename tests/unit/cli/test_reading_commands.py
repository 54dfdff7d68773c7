"""The commands that ask a daemon, against the real servers on a real unix socket."""

import json
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from agent.cli import completion, listeners, output
from agent.cli.app import app
from agent.model import Address, Process, show_address, to_address
from tests.unit.export.fake_agent import (
    FORGED,
    INTERNAL,
    LICENSES,
    STATUS,
    FakeAgent,
    flow,
    judged_listener,
    signed,
)
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
        "generation 7: 2 targets, 1 grant (/etc/licet/policy.yaml)",
        "warning: policy.yaml:9: principal 'ci' matches nothing",
        "the last reload failed: policy.yaml:3: unknown key 'servces'",
        "4 open, 12 opened, 8 closed",
        "event_sink 5",
        "48.5 MB",
        "fexit: not permitted",
        "65536",
        "unix sockets",
        "no process listens on 9187/tcp of orders-db/admin: start it, or correct the policy (policy.yaml:4)",
        "and 11 more",
    ):
        assert part in shown
    assert "ring_full" not in shown  # nothing was lost there


def test_a_policy_that_was_refused_at_the_start_is_told_once_and_whole(
    licet: Licet, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    mistakes = "policy.yaml:3: unknown key 'servces'\npolicy.yaml:9: no principal 'bill'"
    monkeypatch.setitem(STATUS["policy"], "last_error", mistakes)
    monkeypatch.setitem(STATUS["policy"], "is_last_good", True)
    monkeypatch.setitem(STATUS["troubles"], "policy", f"the last good policy is in force: {mistakes}")
    shown = licet("status")
    for mistake in mistakes.splitlines():
        assert shown.count(mistake) == 1


def test_status_json_is_what_the_agent_says(licet: Licet) -> None:
    assert json.loads(licet("status", "--json")) == dict(STATUS)


def test_flows_show_both_processes_and_only_the_target_asked_for(licet: Licet, agent: FakeAgent) -> None:
    agent.flow_rows = [(INTERNAL, flow(acceptor=Process(pid=813, comm="worker")))]
    shown = licet("flows")
    for part in ("orders-db/internal", "4711  curl", "worker[813]", "127.0.0.1", "5432", "denied"):
        assert part in shown
    agent.flow_rows = [(INTERNAL, flow())]
    assert "postgres[812]" in licet("flows")
    assert json.loads(licet("flows", "--json", "--target", "orders-db"))[0]["consumer"]["pid"] == 4711
    assert json.loads(licet("flows", "--json", "--target", "orders-db/admin")) == []
    assert licet("flows", "--target", "orders-db/admin") == "no open flow to orders-db/admin\n"


def test_a_cell_is_whole_where_no_terminal_limits_it(licet: Licet, agent: FakeAgent) -> None:
    agent.listener_rows = [judged_listener(explanation="why " * 100)]
    assert ("why " * 100).strip() in licet("listeners")


def test_listeners_show_what_is_wrong_and_can_leave_out_what_is_fine(licet: Licet, agent: FakeAgent) -> None:
    shown = licet("listeners")
    for part in ("5432/tcp", "0.0.0.0 (any)", "812", "declared, exposed_port", "listen on 127.0.0.1"):
        assert part in shown
    fine = judged_listener(states=agent.listener_rows[0].states[:1], explanation="")
    agent.listener_rows = [fine]
    assert licet("listeners", "--judged") == "no listener that should not be there\n"
    assert json.loads(licet("listeners", "--judged", "--json")) == []
    assert "postgres" in licet("listeners", "--all")


def test_events_are_readable_lines_or_the_lines_of_the_sink(licet: Licet, agent: FakeAgent) -> None:
    agent.log.write(violation())
    agent.log.write({"type": "stopped", "time": "2026-05-01T14:02:12.000000Z"})
    assert licet("events").splitlines() == [
        "2026-05-01 14:02:11 WOULD DENY no_license orders-db/admin  curl[7] uid=0 → 127.0.0.1:9187",
        "2026-05-01 14:02:12 stopped",
    ]
    assert [json.loads(line) for line in licet("events", "--json").splitlines()] == agent.log.recent(2)
    assert licet("events", "--limit", "1") == "2026-05-01 14:02:12 stopped\n"
    assert len(licet("events", "--limit", "1", "--type", "violation").splitlines()) == 1


def test_a_program_name_can_not_color_a_table(licet: Licet, agent: FakeAgent) -> None:
    agent.flow_rows = [(INTERNAL, flow(consumer=Process(pid=9, comm="\x1b[31m[red]x")))]
    shown = licet("flows")
    assert "\x1b" not in shown
    assert r"9    \x1b[31m[red]x" in shown


LONG = Process(pid=2304711, exe="/usr/lib/postgresql/15/bin/psql", unit="billing-worker@12.service")
V6 = to_address("2001:db8:1:2:3:4:5:6")


@pytest.mark.parametrize("address", [to_address("192.168.100.200"), V6])
def test_at_80_columns_nothing_of_a_flow_is_cut(
    licet: Licet, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch, address: Address
) -> None:
    monkeypatch.setattr(output, "is_terminal", lambda file=None: True)
    monkeypatch.setenv("COLUMNS", "80")
    agent.flow_rows = [(INTERNAL, flow(consumer=LONG, consumer_address=address, port=65432))]
    lines = licet("flows").splitlines()
    assert max(map(len, lines)) <= 80
    assert "…" not in "".join(lines)
    for whole in ("denied", "2304711", show_address(address), "65432"):
        assert whole in lines[1]
    below = " ".join(line.strip() for line in lines[2:])
    for told in ("consumer psql billing-worker@12.service", "target orders-db/internal", "postgres[812]"):
        assert told in below


def test_at_80_columns_why_has_lines_of_its_own(
    licet: Licet, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in (output, listeners):
        monkeypatch.setattr(module, "is_terminal", lambda file=None: True)
    monkeypatch.setenv("COLUMNS", "80")
    agent.listener_rows = [judged_listener(explanation="because " * 20)]
    *table, why = licet("listeners").splitlines()
    assert max(map(len, table)) <= 80
    assert why == "0.0.0.0:5432: " + "because " * 20
    for whole in ("5432/tcp", "812"):
        assert whole in table[1]


def test_a_guess_is_never_in_the_column_of_services(licet: Licet, agent: FakeAgent) -> None:
    agent.listener_rows = [judged_listener(service="", port_class="", explanation="")]
    header, row = licet("listeners").splitlines()
    assert row[header.index("SERVICE") : header.index("LOOKS LIKE")].strip() == ""
    assert row[header.index("LOOKS LIKE") :].startswith("postgresql")


@pytest.mark.parametrize(
    ("words", "offered"),
    [
        ("licet flows --target ord", {"orders-db", "orders-db/internal", "orders-db/admin"}),
        ("licet mode enforce --target orders-db/a", {"orders-db/admin"}),
        ("licet explain --target x", set()),
        ("licet events --type flow", {"flow_open", "flow_close"}),
    ],
)
def test_the_shell_is_offered_targets_and_types(
    licet: Licet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: str, offered: set[str]
) -> None:
    monkeypatch.setenv("LICET_CONFIG", str(tmp_path / "config.yaml"))
    env = {"_LICET_COMPLETE": "complete_bash", "COMP_WORDS": words, "COMP_CWORD": str(words.count(" "))}
    result = CliRunner().invoke(app, [], prog_name="licet", env=env)
    assert set(result.stdout.split()) == offered


def test_the_shell_is_offered_nothing_where_no_daemon_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"paths": {"run": str(tmp_path)}}))
    monkeypatch.setenv("LICET_CONFIG", str(config))
    assert completion.targets("") == []


def refused(config: Path, *arguments: str) -> str:
    """What is said of a wrong word; exit code 2."""
    result = CliRunner().invoke(app, [*arguments, "--config", str(config)])
    assert result.exit_code == 2
    return " ".join(result.stderr.replace("│", "").split())


def test_a_target_that_is_none_is_a_mistake(licet: Licet, tmp_path: Path) -> None:
    said = refused(tmp_path / "config.yaml", "flows", "--target", "order-db")
    assert "did you mean 'orders-db'?" in said


def test_a_type_that_is_none_is_a_mistake(licet: Licet, tmp_path: Path) -> None:
    said = refused(tmp_path / "config.yaml", "events", "--type", "violations")
    assert "did you mean 'violation'?" in said


def test_very_many_listeners_of_one_process_stay_readable(
    licet: Licet, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    (first, *_) = agent.listener_rows
    crowd = [
        replace(first, listener=replace(first.listener, port=20_000 + n), explanation="why")
        for n in range(5000)
    ]
    agent.listener_rows = [*crowd[:2500], *agent.listener_rows, *crowd[2500:]]
    assert len(licet("listeners").splitlines()) == len(agent.listener_rows) + 1
    for module in (output, listeners):
        monkeypatch.setattr(module, "is_terminal", lambda *_: True)
    monkeypatch.setenv("COLUMNS", "200")
    shown = licet("listeners")
    assert "4,99" in shown
    assert "more" in shown
    assert len(shown.splitlines()) < 30


@pytest.mark.parametrize(
    ("not_ready", "told"),
    [
        (
            {"reason": "the policy is not in force yet", "since": None},
            "observe (not ready yet: the policy is not in force yet)",
        ),
        (
            {"reason": "disk full", "since": "2026-05-01T10:05:12.000000Z"},
            "observe (not ready since 2026-05-01 10:05:12: see TROUBLE)",
        ),
        (None, "observe (not ready)"),  # of a daemon that does not say
    ],
)
def test_not_ready_yet_and_not_ready_any_more_are_two_things(
    licet: Licet, agent: FakeAgent, not_ready: dict[str, Any] | None, told: str
) -> None:
    agent.status_fields = {**STATUS, "ready": False, "not_ready": not_ready}
    assert told in licet("status").splitlines()[1]


def test_licenses_are_listed_in_one_line_each(licet: Licet) -> None:
    assert licet("licenses").splitlines() == [
        "forever (not signed, /etc/licet/policy.yaml:14) valid, perpetual",
        "acme-2026 serial 3 (Acme, production) valid, expires in 33 days (2027-01-01 00:00 UTC), "
        "then 31 days of grace",
        "forged.json, not verified, says: forged serial 3 (Acme, production) bad_signature: "
        "no signature verifies",
        "revocations of Acme, serial 4: 2 licenses, 1 key; next update in 33 days (2027-01-01 00:00 UTC)",
        f"key {'5f' * 32} of Acme: acme-2026",
        "not signed, and in force: forever; require_signed is off",
    ]
    answer = json.loads(licet("licenses", "--json"))
    assert [one["extensions"] for one in answer["licenses"]] == [{}, {"order": "4711"}, {}]


def test_without_any_license_there_is_one_line_and_none_in_the_status(licet: Licet, agent: FakeAgent) -> None:
    none = replace(LICENSES, listed=(), revocations=())
    agent.seen = replace(agent.seen, licenses=none)
    assert licet("licenses").splitlines() == [
        "there is no license: no file in paths.licenses, and none in the policy"
    ]
    agent.status_fields = {**STATUS, "licenses": none.fields()}
    assert "licenses" not in licet("status")


def test_a_file_name_cannot_steer_the_terminal(licet: Licet, agent: FakeAgent) -> None:
    odd = replace(FORGED, file="a\x1b[31m\n\u202eb.json")
    agent.seen = replace(agent.seen, licenses=replace(LICENSES, listed=(odd,)))
    shown = licet("licenses")
    assert shown.splitlines()[0].startswith(r"a\x1b[31m\n\u202eb.json, not verified, says: ")


def test_the_status_has_the_licenses_in_force_first(licet: Licet, agent: FakeAgent) -> None:
    many = [replace(FORGED, file=f"{n}.json") for n in range(30)]
    fields = replace(LICENSES, listed=(*many, signed())).fields()
    agent.status_fields = {**STATUS, "licenses": fields}
    lines = [line for line in licet("status").splitlines() if "serial" in line or "more (licet" in line]
    assert lines[0].startswith("licenses   acme-2026 serial 3 (Acme, production) valid")
    assert lines[-1].strip() == "and 12 more (licet licenses)"
    agent.status_fields = {key: value for key, value in STATUS.items() if key != "licenses"}
    assert "licenses" not in licet("status")  # a daemon of an earlier version
