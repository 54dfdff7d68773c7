"""Records that are there and cannot be read now: nothing of them is lost, moved away or written over."""

from __future__ import annotations

import contextlib
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.licensing.keeper import LicenseKeeper
from tests.unit.daemon.licensing.world import SECOND, World, states


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.vendor.pin(made.keys)
    return made


def records(world: World) -> Path:
    return world.path / "state/licenses"


@contextlib.contextmanager
def unreadable(path: Path) -> Iterator[None]:
    """A link to itself: neither read nor listed (ELOOP), and a file in its place would be noticed."""
    aside = path.parent.with_name("aside")
    path.rename(aside)
    path.symlink_to(path.name)
    try:
        yield
    finally:
        assert path.is_symlink(), "written over"
        path.unlink()
        aside.rename(path)


@contextlib.contextmanager
def no_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (0, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def one_of(world: World, prefix: str) -> Path:
    (path,) = records(world).glob(f"{prefix}*.json")
    return path


def no_record_is_damaged(world: World) -> bool:
    return not list(records(world).glob("*.bad"))


def follows(keeper: LicenseKeeper) -> dict[str, str]:
    """As the daemon does it: tries again, and writes what waited."""
    keeper.refresh()
    keeper.retry()
    assert keeper.problem == ""
    assert keeper.no_verdict == ""
    return states(keeper)


def test_a_copy(world: World) -> None:
    world.put("a.json")
    world.start()
    world.write("a.json", b"{")
    with unreadable(one_of(world, "copy-")):
        keeper = world.start()
        keeper.refresh()
        assert states(keeper) == {"a.json": "malformed"}
        assert "cannot be read: Too many levels" in keeper.problem
        assert keeper.no_verdict
    assert follows(keeper) == states(world.start()) == {"a.json": "malformed", "a.json*": "valid"}
    assert no_record_is_damaged(world)


def test_a_copy_whose_file_was_renewed_meanwhile(world: World) -> None:
    world.put("a.json")
    world.start()
    with unreadable(one_of(world, "copy-")):
        world.put("a.json", serial=2)
        keeper = world.start()
        keeper.retry()
    follows(keeper)
    world.write("a.json", b"{")
    (report,) = [one for one in world.start().reports if one.is_copy]
    assert report.document is not None
    assert report.document.serial == 2


def test_a_copy_whose_file_is_gone_by_then(world: World) -> None:
    world.put("a.json")
    world.start()
    with unreadable(one_of(world, "copy-")):
        (world.files / "a.json").unlink()
        keeper = world.start()
    assert follows(keeper) == {}
    assert list(records(world).glob("copy-*")) == []


def test_serials(world: World) -> None:
    """An older document may hold meanwhile, and what it establishes takes nothing back."""
    world.put("a.json", serial=7)
    world.put("b.json", id="b", serial=5, supersedes=["c"])
    world.start()
    for name in ("a.json", "b.json"):
        (world.files / name).unlink()
    world.start()
    with unreadable(records(world) / "serials.json"):
        world.put("a.json", serial=3)
        world.put("c.json", id="c")
        world.put("d.json", id="d", serial=9)
        keeper = world.start()
        keeper.refresh()
        keeper.retry()
    assert follows(keeper) == {"a.json": "superseded", "c.json": "superseded", "d.json": "valid"}
    world.put("d.json", id="d", serial=8)
    assert states(world.start())["d.json"] == "superseded"
    assert states(world.start())["c.json"] == "superseded"


@pytest.mark.parametrize(("stored", "meanwhile"), [(1, 2), (2, 1)])
def test_revocation_lists(world: World, stored: int, meanwhile: int) -> None:
    """The newer one counts, whichever it was."""
    revoking = {stored: "old", meanwhile: "new"}
    for name in ("old", "new"):
        world.put(f"{name}.json", id=name)
    lists = {serial: [{"id": name, "serials": "all"}] for serial, name in revoking.items()}
    world.revoke("r.json", serial=stored, licenses=lists[stored])
    world.start()
    (world.files / "r.json").unlink()
    with unreadable(one_of(world, "list-")):
        world.revoke("r.json", serial=meanwhile, licenses=lists[meanwhile])
        keeper = world.start()
        (world.files / "r.json").unlink()
        keeper.refresh()
        keeper.retry()
    newest = revoking[2]
    for found in (follows(keeper), states(world.start())):
        assert [name for name, state in found.items() if state == "revoked"] == [f"{newest}.json"]


def test_contents_of_key_files(world: World) -> None:
    world.put("a.json")
    world.start()
    (key,) = world.keys.iterdir()
    key.write_text("{")
    with unreadable(records(world) / "keys.json"):
        world.vendor.pin(world.keys, SECOND)
        keeper = world.start()
        keeper.refresh()
        keeper.retry()
    assert follows(keeper) == {"a.json": "valid"}
    assert states(world.start()) == {"a.json": "valid"}


def test_the_record_of_mounts(world: World) -> None:
    """Perhaps the folder was a mount: while that is not known, an empty folder withdraws nothing."""
    world.put("a.json")
    world.start()
    (records(world) / "mounts.json").write_text('["licenses"]')
    (world.files / "a.json").unlink()
    with unreadable(records(world) / "mounts.json"):
        assert states(world.start()) == {"a.json*": "valid"}
    assert states(world.start()) == {"a.json*": "valid"}


def test_the_folder_of_all_records(world: World) -> None:
    world.put("a.json", serial=7)
    world.start()
    world.write("a.json", b"{")
    with unreadable(records(world)):
        keeper = world.start()
        keeper.refresh()
        keeper.retry()
    assert follows(keeper) == {"a.json": "malformed", "a.json*": "valid"}
    world.put("a.json", serial=6)
    assert states(keeper_again := world.start())["a.json"] == "superseded", keeper_again.reports


def test_a_process_without_descriptors(world: World) -> None:
    world.put("a.json", serial=7)
    world.revoke("r.json", licenses=[{"id": "gone", "serials": "all"}])
    world.start()
    before = {path.name: path.read_bytes() for path in records(world).iterdir()}
    with no_descriptors():
        keeper = world.start()
        keeper.retry()
        assert "Too many open files" in keeper.problem
    assert {path.name: path.read_bytes() for path in records(world).iterdir()} == before
    assert follows(keeper) == {"a.json": "valid", "r.json": "valid"}


@pytest.mark.parametrize("name", ["serials.json", "keys.json"])
def test_what_is_no_file_is_damaged(world: World, name: str) -> None:
    world.put("a.json")
    world.start()
    (records(world) / name).unlink()
    os.mkfifo(records(world) / name)
    assert states(world.start()) == {"a.json": "valid"}
    assert (records(world) / f"{name}.bad").exists()
