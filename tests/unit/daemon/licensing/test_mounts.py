"""Folders that are mounts: one that is missing, also at a start, withdraws nothing."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fixtures.mounts import mounted
from tests.unit.daemon.licensing.world import World, states

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


@pytest.mark.parametrize("folder", ["licenses", "keys"])
def test_a_mount_that_is_missing_at_a_start_withdraws_nothing(tmp_path: Path, folder: str) -> None:
    world = World(tmp_path)
    with mounted(tmp_path / folder):
        world.vendor.pin(world.keys)
        world.put("a.json")
        keeper = world.start()
        assert states(keeper) == {"a.json": "valid"}
    for again in (keeper, world.start(), world.start()):
        again.refresh()
        assert list(states(again).values()) == ["valid"]
        assert "another file system is there, and it is empty" in str(again.findings)


def test_a_mount_that_is_emptied_withdraws_its_licenses(tmp_path: Path) -> None:
    world = World(tmp_path)
    world.vendor.pin(world.keys)
    with mounted(world.files):
        world.put("a.json")
        world.start()
        (world.files / "a.json").unlink()
        assert states(world.start()) == {}


@pytest.mark.parametrize("folder", ["licenses", "keys"])
def test_a_bind_mount_of_the_same_file_system_that_is_gone_withdraws_nothing(
    tmp_path: Path, folder: str
) -> None:
    """Its device is that of the empty folder below it."""
    world = World(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    with mounted(tmp_path / folder, ("--bind", tmp_path / "elsewhere")):
        world.vendor.pin(world.keys)
        world.put("a.json")
        keeper = world.start()
        assert states(keeper) == {"a.json": "valid"}
    for again in (keeper, world.start()):
        again.refresh()
        assert list(states(again).values()) == ["valid"]
        assert "another file system is there, and it is empty" in str(again.findings)
