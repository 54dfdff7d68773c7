"""More files than are read, and files that others could write: what holds stays."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.unit.daemon.licensing.world import World, states


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.vendor.pin(made.keys)
    made.put("m.json")
    return made


def test_files_that_are_too_many_displace_no_document_in_force(world: World) -> None:
    keeper = world.start()
    for number in range(256):
        world.write(f"{number:03}.json", b"{}")
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again)["m.json"] == "valid"
        assert len(again.reports) == 256
        assert "1 documents are too many" in str(again.findings[0])


def test_key_files_that_are_too_many_displace_no_pinned_key(world: World) -> None:
    keeper = world.start()
    for number in range(256):
        (world.keys / f"{number:03}.yaml").write_text("{}")
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again)["m.json"] == "valid"


def test_a_key_file_that_others_can_write_keeps_its_last_content(world: World) -> None:
    keeper = world.start()
    (path,) = world.keys.iterdir()
    path.chmod(0o666)
    path.write_text(path.read_text().replace("acme-orders", "billing"))
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"m.json": "valid"}
        assert "stays pinned" in " ".join(str(one) for one in again.findings)
    path.unlink()
    keeper.refresh()
    assert states(keeper) == {"m.json": "unknown_key"}
