"""Folders that are mounts: one that is missing, also at a start, withdraws nothing."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.unit.daemon.licensing.world import World, states

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


@contextlib.contextmanager
def mounted(path: Path) -> Iterator[None]:
    path.mkdir(exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", path], check=True)
    try:
        yield
    finally:
        subprocess.run(["umount", path], check=True)


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
