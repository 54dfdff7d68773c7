"""Whose serials, ids and supersessions count, and for how long."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey
from tests.unit.daemon.licensing.world import SECOND, TIMES, World, states


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.vendor.keys.append(SECOND)
    for key in made.vendor.keys:
        made.vendor.pin(made.keys, key)
    return made


@pytest.mark.parametrize("turn", [1, -1])
def test_a_serial_counts_under_each_key_that_signed_it(world: World, turn: int) -> None:
    stolen, good = world.vendor.keys[::turn]
    world.put("new.json", stolen, good, serial=2)
    keeper = world.start()
    (world.files / "new.json").unlink()
    world.put("old.json", good, serial=1)
    world.revoke("r.json", good, keys=[stolen.kid])
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"old.json": "superseded", "r.json": "valid"}


def test_an_id_that_a_revoked_key_has_claimed_is_free(world: World) -> None:
    stolen, good = VendorKey(7), VendorKey(8)
    other = Vendor("Other", ("billing",), [stolen, good])
    for key in other.keys:
        other.pin(world.keys, key)
    world.write("0.json", other.sign(other.license(**TIMES, id="acme-2026"), stolen))
    world.start()
    world.put("a.json")
    keeper = world.start()
    assert states(keeper) == {"0.json": "valid", "a.json": "unknown_key"}
    times = {"issued_at": TIMES["issued_at"], "next_update": TIMES["expires_at"]}
    listed = other.revocations(**times, keys=[stolen.kid])
    world.write("r.json", other.sign(listed, good, kind=REVOCATIONS))
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again)["a.json"] == "valid"
        assert states(again)["0.json"] != "valid"


@pytest.mark.parametrize("restarts", [False, True])
def test_of_two_that_supersede_each_other_the_later_holds_whichever_came_first(
    world: World, restarts: bool
) -> None:
    world.put("plus.json", id="plus", supersedes=["basic"], issued_at="2026-03-01T00:00:00Z")
    keeper = world.start()
    world.put("basic.json", id="basic", supersedes=["plus"], issued_at="2026-04-01T00:00:00Z")
    if restarts:
        keeper = world.start()
    keeper.refresh()
    assert states(keeper) == {"basic.json": "valid", "plus.json": "superseded"}
    world.put("plus.json", id="plus", serial=2, supersedes=["basic"], issued_at="2026-05-01T00:00:00Z")
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"basic.json": "superseded", "plus.json": "valid"}


def test_what_is_superseded_stays_so_after_what_superseded_it_is_gone(world: World) -> None:
    world.put("b.json", id="b", supersedes=["a"])
    world.start()
    (world.files / "b.json").unlink()
    world.put("a.json", id="a", serial=7, supersedes=["c"], issued_at="2026-05-20T00:00:00Z")
    assert states(world.start()) == {"a.json": "superseded"}
