"""Commands that judge without a daemon go by the license time that one has stored, unless a time is given."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from agent.cli.app import app
from agent.license.clock import DAY_NS, LicenseClock, utc
from agent.license.clock_json import to_json
from agent.model import show_time
from agent.state_files import State
from agent.system.boottime import boot_id, clocks

EXPLAIN = ("explain", "--target", "db", "--uid", "1001")


class Machine:
    """With a license that holds for a day from now on, by the wall clock."""

    def __init__(self, folder: Path) -> None:
        self.config, self.state = folder / "config.yaml", folder / "state"
        policy = folder / "policy.yaml"
        self.config.write_text(json.dumps({"paths": {"policy": str(policy), "state": str(self.state)}}))
        self.wall_ns = clocks()[1]
        starts, ends = (show_time(utc(self.wall_ns + days * DAY_NS)) for days in (-1, 1))
        policy.write_text(f"""\
version: 1
services: {{db: {{product: acme, ports: [{{port: 5432, class: internal}}]}}}}
principals: {{ops: [{{uid: 1001}}]}}
licenses:
  - {{id: acme, product: acme, starts_at: {starts}, expires_at: {ends},
     entitlements: [{{id: use, classes: [internal], principals: [ops]}}]}}
""")

    def store(self, license_ns: int) -> None:
        """As a daemon of this boot does whose license time is another one than the wall clock's."""
        clock = LicenseClock.started(boot_id(), *clocks())
        moved = replace(clock, firm_offset_ns=license_ns - clock.boot_ns, taken=None)
        State(self.state).keep_time(to_json(moved))

    def licet(self, *words: str) -> Result:
        return CliRunner().invoke(app, [*words, "--config", str(self.config)])


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_without_a_stored_time_the_wall_clock_counts(machine: Machine) -> None:
    assert machine.licet(*EXPLAIN).exit_code == 0
    assert "ended" not in machine.licet("policy", "check").stdout


def test_a_license_that_has_ended_by_license_time_has_ended(machine: Machine) -> None:
    machine.store(machine.wall_ns + 2 * DAY_NS)
    assert "denied, expired" in machine.licet(*EXPLAIN).stdout
    assert "license 'acme' ended at" in machine.licet("policy", "check").stdout
    assert "ended" not in machine.licet("policy", "check", "--elsewhere").stdout
    assert machine.licet(*EXPLAIN, "--at", show_time(utc(machine.wall_ns))).exit_code == 0


def test_expected_decisions_go_by_license_time_too(machine: Machine, tmp_path: Path) -> None:
    cases = tmp_path / "cases.yaml"
    then = show_time(utc(machine.wall_ns))
    cases.write_text(f"""\
cases:
  - {{target: db, consumer: {{uid: 1001}}, expect: denied, reason: expired}}
  - {{target: db, consumer: {{uid: 1001}}, expect: allowed, at: {then}}}
""")
    assert "1 of 2 cases hold" in machine.licet("policy", "test", str(cases)).stdout
    machine.store(machine.wall_ns + 2 * DAY_NS)
    assert machine.licet("policy", "test", str(cases)).exit_code == 0


def test_one_that_has_begun_by_the_wall_clock_has_begun(machine: Machine) -> None:
    machine.store(machine.wall_ns - 2 * DAY_NS)
    assert machine.licet(*EXPLAIN).exit_code == 0
    before = machine.licet(*EXPLAIN, "--at", show_time(utc(machine.wall_ns - 2 * DAY_NS)))
    assert "denied, not_yet_valid" in before.stdout


def test_a_stored_time_that_cannot_be_read_stops_no_command(machine: Machine) -> None:
    machine.state.mkdir()
    (machine.state / "clock.json").write_text("{")
    assert machine.licet(*EXPLAIN).exit_code == 0
