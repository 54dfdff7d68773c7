"""The host's public key alone proves nothing: it stands in each request that is sent to a vendor."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.store import LicenseStore
from agent.daemon.licensing.verifier import Verifier
from agent.license.host_key import public_of_private
from agent.license.node import host_key_node
from agent.license.verification import NoVerdict
from tests.fixtures.vendor import VendorKey, give_host_key
from tests.unit.daemon.licensing.world import World, states

ASKED = "agent.daemon.licensing.node.public_of_private"
OWN, OTHER = VendorKey(99).public, VendorKey(98).public
OF_OWN, OF_OTHER = (
    {"own.json": "valid", "other.json": "node_mismatch"},
    {
        "own.json": "node_mismatch",
        "other.json": "valid",
    },
)


@pytest.fixture
def world(tmp_path: Path) -> World:
    """A host with its key, and a document for it beside one for another host."""
    made = World(tmp_path)
    made.vendor.pin(made.keys)
    give_host_key(tmp_path / "state")
    for name, key in (("own", OWN), ("other", OTHER)):
        made.put(f"{name}.json", id=name, node_lock={"any_of": [host_key_node(key)]})
    return made


def start(world: World) -> LicenseKeeper:
    state = world.path / "state"
    store = LicenseStore(state / "licenses")
    keys, of_host = KeyRing(world.keys, store), Node(world.path / "proc", state, store)
    keeper = LicenseKeeper(world.files, keys, store, of_host, Verifier(world.verify), world.clock)
    keeper.refresh()
    return keeper


def in_order(found: dict[str, str]) -> dict[str, str]:
    return {name: found[name] for name in ("own.json", "other.json")}


def write(world: World, name: str, text: str) -> None:
    """As `cp` does: another file in its place."""
    (world.path / "state" / name).unlink(missing_ok=True)
    (world.path / "state" / name).write_text(text)


def test_a_key_of_its_own_is_no_trouble(world: World) -> None:
    keeper = start(world)
    assert in_order(states(keeper)) == OF_OWN
    assert keeper.problem == ""


def test_the_public_key_of_another_host_is_not_used_and_is_told(world: World) -> None:
    start(world)
    write(world, "host.pub", OTHER.hex())
    for keeper in (start(world), start(world)):
        for _ in range(2):
            assert in_order(states(keeper)) == OF_OWN
            assert keeper.node_ids["hk"] == host_key_node(OWN)
            assert "host.pub: it is not of host.key" in keeper.problem
            keeper.refresh()
    (world.path / "state/host.pub").unlink()
    keeper.refresh()
    assert keeper.problem == ""
    assert in_order(states(keeper)) == OF_OWN


def test_it_is_found_while_the_daemon_runs_and_on_a_host_that_never_had_a_record(world: World) -> None:
    keeper = start(world)
    write(world, "host.pub", OTHER.hex())
    keeper.refresh()
    assert in_order(states(keeper)) == OF_OWN
    (world.path / "state/licenses/node.json").unlink()
    assert in_order(states(start(world))) == OF_OWN


def test_without_the_private_key_only_what_was_known_counts(world: World) -> None:
    start(world)
    (world.path / "state/host.key").unlink()
    keeper = start(world)
    assert in_order(states(keeper)) == OF_OWN
    assert keeper.problem == ""
    write(world, "host.pub", OTHER.hex())
    keeper = start(world)
    assert in_order(states(keeper)) == OF_OWN
    assert "host.key: it is gone" in keeper.problem


def test_a_damaged_private_key_locks_nobody_out_and_is_told(world: World) -> None:
    start(world)
    write(world, "host.key", "damaged")
    keeper = start(world)
    assert in_order(states(keeper)) == OF_OWN
    assert "host.key: damaged" in keeper.problem
    assert "--new-host-key" in keeper.problem


def test_a_new_key_is_used(world: World) -> None:
    keeper = start(world)
    write(world, "host.key", VendorKey(98).pem)
    write(world, "host.pub", OTHER.hex())
    keeper.refresh()
    assert in_order(states(keeper)) == OF_OTHER
    assert keeper.problem == ""


def test_no_child_is_asked_unless_a_document_depends_on_it(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Path] = []

    def ask(folder: Path) -> bytes:
        asked.append(folder)
        raise NoVerdict("killed")

    monkeypatch.setattr(ASKED, ask)
    keeper = start(world)
    assert in_order(states(keeper)) == OF_OWN  # no verdict takes nothing away
    assert len(asked) == 1
    for path in world.files.iterdir():
        path.unlink()
    world.put("free.json")
    world.put("machine.json", id="m", node_lock={"any_of": ["mi:" + "1" * 64]})
    start(world)
    assert len(asked) == 1


def test_one_key_is_asked_about_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def ask(folder: Path) -> bytes:
        asked.append(folder)
        return public_of_private(folder)

    monkeypatch.setattr(ASKED, ask)
    keeper = start(world)
    for _ in range(3):
        keeper.refresh()
    assert len(asked) == 1
