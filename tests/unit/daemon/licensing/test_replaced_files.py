"""A file with another document than before: when the copy of the earlier one gives way."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.license.clock import Moment
from tests.unit.daemon.licensing.world import DAY, NOW, World, states


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.vendor.pin(made.keys)
    made.put("a.json")
    return made


def test_a_renewal_in_place_of_its_license_waits_for_its_start(world: World) -> None:
    keeper = world.start()
    world.put("a.json", serial=2, starts_at="2026-06-02T00:00:00Z")
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "not_yet_valid", "a.json*": "valid"}
    world.clock.now = Moment(NOW + DAY, NOW + DAY)
    assert keeper.judge_again()
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "valid"}
    world.put("a.json", serial=1)
    keeper.refresh()
    assert states(keeper) == {"a.json": "superseded", "a.json*": "valid"}


def test_between_the_end_and_its_renewal_in_place_a_license_has_ended(world: World) -> None:
    keeper = world.start()
    world.put("a.json", serial=2, starts_at="2028-01-01T00:00:00Z", expires_at="2029-01-01T00:00:00Z")
    keeper.refresh()
    world.clock.now = Moment(NOW + 300 * DAY, NOW + 300 * DAY)
    keeper.judge_again()
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "not_yet_valid", "a.json*": "expired"}
    world.clock.now = Moment(NOW + 600 * DAY, NOW + 600 * DAY)
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "valid"}


def test_an_ended_copy_makes_way_for_another_license_that_waits(world: World) -> None:
    keeper = world.start()
    world.put("a.json", id="other", starts_at="2028-01-01T00:00:00Z", expires_at="2029-01-01T00:00:00Z")
    keeper.refresh()
    world.clock.now = Moment(NOW + 300 * DAY, NOW + 300 * DAY)
    keeper.refresh()
    assert states(keeper) == {"a.json": "not_yet_valid"}


def test_a_document_that_has_ended_does_not_replace_one_that_holds(world: World) -> None:
    keeper = world.start()
    past = {"issued_at": "2025-01-01T00:00:00Z", "expires_at": "2026-01-01T00:00:00Z"}
    world.put("a.json", id="acme-2025", **past)
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "expired", "a.json*": "valid"}
    world.clock.now = Moment(NOW + 300 * DAY, NOW + 300 * DAY)
    keeper.refresh()
    assert states(keeper) == {"a.json": "expired"}


def test_a_revocation_list_in_place_of_a_license_withdraws_it(world: World) -> None:
    keeper = world.start()
    world.revoke("a.json", serial=1)
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid"}
    world.revoke("b.json", serial=2)
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "superseded", "b.json": "valid"}
