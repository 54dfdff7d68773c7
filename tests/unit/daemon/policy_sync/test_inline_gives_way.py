"""An inline license gives way at the start of a document with its id, without anybody's action."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from agent.license.clock import Moment
from agent.license.report import State
from agent.policy.tables.windows import unix_ns
from tests.unit.daemon.reporting.license_world import INLINE, NOW, POLICY, Host

BEGINS = NOW + timedelta(hours=1)
BEFORE = BEGINS - timedelta(seconds=1)


@pytest.fixture
def host(tmp_path: Path) -> Host:
    return Host(tmp_path)


def put_waiting(host: Host, **fields: object) -> None:
    host.put("plain.json", id="plain", starts_at=BEGINS.isoformat(), **fields)


def look(host: Host, license_time: datetime, wall: datetime | None = None) -> list[str]:
    """Where the grants in the tables are written, after the next look at the host."""
    host.clock.now = Moment(license_time, wall or license_time)
    offset_ns = unix_ns(NOW - timedelta(days=1))
    facts = {"boot_offset_ns": offset_ns, "gathered_boot_ns": unix_ns(license_time) - offset_ns}
    host.world.facts = replace(host.world.facts, **facts)
    host.keeper.follow_host()
    return granting(host)


def granting(host: Host) -> list[str]:
    compiled = host.keeper.compiled
    assert compiled is not None
    (planned,) = compiled.plans.values()
    return [plan.license.place.file for plan in planned if plan.license.state is None]


def test_the_inline_license_goes_on_until_the_document_begins(host: Host) -> None:
    put_waiting(host)
    host.load(POLICY + INLINE)
    policy_file = granting(host)[0]
    assert look(host, BEFORE) == [policy_file, "plain.json"]
    generation = host.keeper.generation
    assert look(host, BEGINS) == ["plain.json"]
    assert host.keeper.generation == generation + 1
    look(host, BEGINS + timedelta(hours=2))
    assert host.keeper.generation == generation + 1


def test_the_start_goes_by_the_later_clock(host: Host) -> None:
    put_waiting(host)
    host.load(POLICY + INLINE)
    assert len(look(host, BEFORE, BEFORE)) == 2
    assert look(host, BEFORE, BEGINS) == ["plain.json"]


def test_no_tables_are_compiled_at_the_start_of_a_document_that_replaces_nothing(host: Host) -> None:
    put_waiting(host)
    host.put("other.json", id="other", starts_at=BEGINS.isoformat())
    host.load(POLICY)
    look(host, BEFORE)
    generation = host.keeper.generation
    look(host, BEGINS)
    assert host.keeper.generation == generation


def test_a_daemon_that_was_dead_at_the_start_of_a_document_puts_it_in_place(host: Host) -> None:
    put_waiting(host)
    host.load(POLICY + INLINE)
    look(host, BEFORE)
    host.restart()
    host.clock.now = Moment(BEGINS, BEGINS)
    host.load(POLICY + INLINE)
    assert granting(host) == ["plain.json"]


def test_a_document_that_is_revoked_before_it_began_locks_nobody_out(host: Host) -> None:
    put_waiting(host)
    host.revoke("list.json", host.vendor.keys[1], licenses=[{"id": "plain", "serials": "all"}])
    host.load(POLICY + INLINE)
    assert len(granting(host)) == 1
    assert len(look(host, BEGINS)) == 1


def test_a_document_that_is_revoked_after_it_held_brings_nothing_back_not_even_in_another_daemon(
    host: Host,
) -> None:
    host.put("plain.json", id="plain")
    host.load(POLICY + INLINE)
    assert granting(host) == ["plain.json"]
    host.revoke("list.json", host.vendor.keys[1], licenses=[{"id": "plain", "serials": "all"}])
    host.load(POLICY + INLINE)
    assert granting(host) == []
    host.restart()
    host.load(POLICY + INLINE)
    assert granting(host) == []
    (host.files / "plain.json").unlink()
    host.load(POLICY + INLINE)
    assert len(granting(host)) == 1, "a file that is removed is withdrawn"


def test_a_document_for_another_host_locks_nobody_out(host: Host) -> None:
    host.put("plain.json", id="plain", node_lock={"any_of": ["mi:" + "7" * 64]})
    found = host.load(POLICY + INLINE)
    assert len(granting(host)) == 1
    states = {one.file: (one.state, one.in_force) for one in found.listed}
    assert states == {"": (State.VALID, True), "plain.json": (State.NODE_MISMATCH, False)}
