"""Changes of files that change nothing about what is granted: no tables are compiled, and all is shown."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from agent.license.report import State
from tests.unit.daemon.reporting.license_world import INLINE, POLICY, Host

Change = Callable[[Host], None]


@pytest.fixture
def host(tmp_path: Path) -> Host:
    made = Host(tmp_path)
    made.put("a.json", id="acme")
    made.load(POLICY + INLINE)
    return made


def rewrite(host: Host) -> None:
    content = (host.files / "a.json").read_bytes()
    (host.files / "a.json").unlink()
    host.write("a.json", content)
    host.world.policy.write_text(POLICY + INLINE)


def garbage(host: Host) -> None:
    host.write("garbage.json", b"{")


def list_of_others(host: Host) -> None:
    host.revoke("list.json", host.vendor.keys[1], licenses=[{"id": "other", "serials": "all"}])


@pytest.mark.parametrize("change", [rewrite, garbage, list_of_others])
def test_what_changes_no_grant_compiles_nothing(host: Host, change: Change) -> None:
    before, policy = host.keeper.generation, host.keeper.policy
    change(host)
    for _ in range(2):
        assert host.keeper.reload(unless_same=True) is False
    host.keeper.follow_host()
    assert (host.keeper.generation, host.keeper.policy) == (before, policy)
    acme = host.reports.now().by_id()["acme"]
    assert (acme.state, acme.in_force, acme.file) == (State.VALID, True, "a.json")


def test_what_compiles_nothing_is_shown(host: Host) -> None:
    version = host.reports.version
    garbage(host)
    list_of_others(host)
    host.keeper.reload(unless_same=True)
    found = host.reports.now()
    assert {one.file: one.state for one in found.listed if one.signed} == {
        "a.json": State.VALID,
        "garbage.json": State.MALFORMED,
    }
    assert [one.file for one in found.revocations] == ["list.json"]
    assert host.reports.version is not version, "events and metrics look again"


def test_a_damaged_file_whose_copy_goes_on_compiles_nothing_twice(host: Host) -> None:
    generations = []
    for number in range(4):
        host.write("a.json", b"{" * (number + 1))
        host.keeper.reload(unless_same=True)
        generations.append(host.keeper.generation)
    assert len(set(generations)) == 1
    copy = host.reports.now().by_id()["acme"]
    assert (copy.is_copy, copy.in_force) == (True, True)


def withdraw(host: Host) -> None:
    (host.files / "a.json").unlink()


def revoke(host: Host) -> None:
    host.revoke("list.json", host.vendor.keys[1], licenses=[{"id": "acme", "serials": "all"}])


def add(host: Host) -> None:
    host.put("b.json", id="more")


def edit_policy(host: Host) -> None:
    host.world.policy.write_text(POLICY.replace("1001", "1002") + INLINE)


def move(host: Host) -> None:
    host.world.facts = replace(host.world.facts, users={"somebody": 7})


@pytest.mark.parametrize("change", [withdraw, revoke, add, edit_policy, move])
def test_what_changes_a_grant_or_the_host_is_compiled_once(host: Host, change: Change) -> None:
    before = host.keeper.generation
    change(host)
    assert host.keeper.reload(unless_same=True) is True
    assert host.keeper.reload(unless_same=True) is False
    assert host.keeper.generation == before + 1


def test_a_reload_that_is_asked_for_compiles(host: Host) -> None:
    before = host.keeper.generation
    assert host.keeper.reload() is True
    assert host.keeper.generation == before + 1
