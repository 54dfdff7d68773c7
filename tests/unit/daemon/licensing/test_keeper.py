"""The keeper of license documents: each file for itself, and the last one that held stays."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest

from agent.license.clock import Moment
from agent.license.report import State
from tests.fixtures.vendor import REVOCATIONS, Vendor, VendorKey
from tests.unit.daemon.licensing.world import DAY, NOW, SECOND, TIMES, World, states


@pytest.fixture
def world(tmp_path: Path) -> World:
    made = World(tmp_path)
    made.vendor.keys.append(SECOND)
    for key in made.vendor.keys:
        made.vendor.pin(made.keys, key)
    return made


def test_each_file_stands_alone(world: World) -> None:
    world.put("a.json")
    world.write("b.json", b"{")
    world.put("c.json", id="other", node_lock={"any_of": ["hk:" + "2" * 64]})
    world.write(".hidden.json", b"{")
    world.write("note.txt", b"{")
    keeper = world.start()
    assert states(keeper) == {"a.json": "valid", "b.json": "malformed", "c.json": "node_mismatch"}


def test_nothing_is_asked_twice(world: World) -> None:
    world.put("a.json")
    keeper = world.start()
    asked = world.verify.asked
    keeper.refresh()
    assert world.verify.asked == asked
    world.put("b.json", id="other")
    keeper.refresh()
    assert world.verify.asked > asked


@pytest.mark.parametrize("restarts", [False, True])
@pytest.mark.parametrize(
    "spoil",
    [
        lambda content: content[: len(content) // 2],
        lambda content: b"",
        lambda content: content.replace(b'"sig": "', b'"sig": "AAAA', 1),
        lambda content: Vendor().sign({**Vendor().license(**TIMES), "licensee": "Someone"}, VendorKey(9)),
        lambda content: b"x" * (65 << 10),
    ],
    ids=["half copied", "empty", "edited", "signed by another", "too large"],
)
def test_a_file_that_no_longer_verifies_leaves_its_copy_in_force(
    world: World, spoil: Callable[[bytes], bytes], restarts: bool
) -> None:
    world.put("a.json")
    keeper = world.start()
    world.write("a.json", spoil((world.files / "a.json").read_bytes()))
    if restarts:
        keeper = world.start()
    else:
        keeper.refresh()
    found = states(keeper)
    assert found.pop("a.json*") == "valid"
    assert set(found.values()) <= {"malformed", "bad_signature", "unknown_key"}
    world.put("a.json")
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid"}


def test_a_file_that_cannot_be_read_leaves_its_copy_in_force(world: World) -> None:
    world.put("a.json")
    keeper = world.start()
    (world.files / "a.json").unlink()
    os.mkfifo(world.files / "a.json")
    keeper.refresh()
    assert states(keeper) == {"a.json": "malformed", "a.json*": "valid"}


def test_an_older_document_leaves_the_newer_one_in_force(world: World) -> None:
    world.put("a.json", serial=2)
    keeper = world.start()
    world.put("a.json", serial=1)
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "superseded", "a.json*": "valid"}
    (world.files / "a.json").unlink()
    keeper.refresh()
    world.put("b.json", serial=1)
    assert states(world.start()) == {"b.json": "superseded"}


def test_a_removed_file_is_a_license_withdrawn(world: World) -> None:
    world.put("a.json")
    world.put("b.json", id="other")
    keeper = world.start()
    (world.files / "a.json").unlink()
    keeper.refresh()
    assert states(keeper) == {"b.json": "valid"}
    (world.files / "b.json").unlink()
    assert states(world.start()) == {}


def test_a_missing_folder_withdraws_nothing(world: World) -> None:
    world.put("a.json")
    keeper = world.start()
    world.files.rename(world.path / "away")
    keeper.refresh()
    assert states(keeper) == {"a.json*": "valid"}
    assert "gone" in str(keeper.findings[0])
    assert states(world.start()) == {"a.json*": "valid"}
    (world.path / "away").rename(world.files)
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid"}
    assert not keeper.findings


def test_a_removed_key_ends_its_documents_and_copies(world: World) -> None:
    world.put("a.json")
    world.put("b.json", id="other")
    keeper = world.start()
    world.write("b.json", b"{")
    (world.keys / f"{world.vendor.keys[0].kid[:12]}.yaml").unlink()
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "unknown_key", "b.json": "malformed", "b.json*": "unknown_key"}


@pytest.mark.parametrize("content", [b"", b"kid: [", b"\xff", b"kid: 1"])
def test_a_key_file_that_cannot_be_read_keeps_its_key(world: World, content: bytes) -> None:
    world.put("a.json")
    keeper = world.start()
    (world.keys / f"{world.vendor.keys[0].kid[:12]}.yaml").write_bytes(content)
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "valid"}
        assert "stays pinned" in " ".join(str(one) for one in again.findings)


def test_no_verdict_changes_nothing(world: World) -> None:
    world.put("a.json")
    world.revoke("r.json", licenses=[{"id": "other", "serials": "all"}])
    keeper = world.start()
    world.verify.fails = True
    world.put("b.json", id="other")
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "valid", "r.json": "valid", "b.json": "unverified"}
        assert "killed" in again.problem
    world.verify.fails = False
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid", "b.json": "revoked", "r.json": "valid"}
    assert not keeper.problem


def test_no_verdict_about_an_edited_file_leaves_its_copy(world: World) -> None:
    world.put("a.json")
    world.start()
    world.verify.fails = True
    world.put("a.json", VendorKey(9))
    assert states(world.start()) == {"a.json": "unverified", "a.json*": "valid"}


def test_what_was_revoked_stays_so_when_the_file_goes(world: World) -> None:
    world.put("a.json", serial=3)
    world.put("b.json", id="other")
    world.revoke("r.json", licenses=[{"id": "acme-2026", "serials": [3]}])
    keeper = world.start()
    assert states(keeper) == {"a.json": "revoked", "b.json": "valid", "r.json": "valid"}
    (world.files / "r.json").unlink()
    for again in (keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "revoked", "b.json": "valid"}
        assert [(one.listed.serial, one.file) for one in again.revocations] == [(1, "r.json")]
    world.put("a.json", serial=4)
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid", "b.json": "valid"}


def test_an_older_list_revokes_nothing_new_and_unrevokes_nothing(world: World) -> None:
    world.put("a.json")
    world.revoke("r.json", serial=2, licenses=[{"id": "acme-2026", "serials": "all"}])
    keeper = world.start()
    world.revoke("r.json", serial=1)
    keeper.refresh()
    assert states(keeper) == {"a.json": "revoked", "r.json": "superseded"}
    world.revoke("r.json", serial=3)
    keeper.refresh()
    assert states(keeper) == {"a.json": "valid", "r.json": "valid"}
    assert states(world.start()) == {"a.json": "valid", "r.json": "valid"}


def test_the_same_list_of_another_key_replaces_only_that_keys_own(world: World) -> None:
    first, second = world.vendor.keys
    world.put("a.json")
    world.revoke("r.json", second, licenses=[{"id": "acme-2026", "serials": "all"}])
    world.start()
    (world.files / "r.json").unlink()
    world.revoke("s.json", first, serial=2)
    keeper = world.start()
    world.revoke("s.json", first, licenses=[{"id": "acme-2026", "serials": "all"}])
    for again in (keeper, keeper, world.start()):
        again.refresh()
        assert states(again) == {"a.json": "revoked", "s.json": "superseded"}


def test_a_revoked_key_and_all_that_it_said(world: World) -> None:
    first, second = world.vendor.keys
    world.put("a.json", second, serial=9)
    world.put("b.json", first, id="other")
    world.revoke("s.json", second, licenses=[{"id": "other", "serials": "all"}])
    keeper = world.start()
    assert states(keeper) == {"a.json": "valid", "b.json": "revoked", "s.json": "valid"}
    world.revoke("r.json", first, keys=[second.kid])
    world.put("c.json", first, serial=1)
    keeper.refresh()
    expected = {
        "a.json": "revoked",
        "b.json": "valid",
        "c.json": "valid",
        "r.json": "valid",
        "s.json": "revoked",
    }
    assert states(keeper) == expected
    assert [one.kid for one in keeper.revocations] == [first.kid]


def test_no_list_revokes_the_only_key_that_signs_it(world: World) -> None:
    first, second = world.vendor.keys
    world.put("a.json", first)
    world.revoke("r.json", first, keys=[first.kid])
    keeper = world.start()
    assert states(keeper) == {"a.json": "valid", "r.json": "unknown_key"}
    world.revoke("r.json", first, second, keys=[first.kid])
    keeper.refresh()
    assert states(keeper) == {"a.json": "revoked", "r.json": "valid"}


def test_two_vendors_share_nothing(world: World) -> None:
    other = Vendor("Other", ("billing",), [VendorKey(7)])
    other.pin(world.keys)
    world.put("a.json")
    world.start()
    # the other vendor takes its id, its product and its serials, revokes its licenses and its keys
    world.write("0.json", other.sign(other.license(**TIMES, id="acme-2026", serial=99)))
    world.write("1.json", other.sign(other.license(**TIMES, id="x", product="acme-orders")))
    world.write("2.json", other.sign({**world.vendor.license(**TIMES), "serial": 5}))
    listed = {"issued_at": TIMES["issued_at"], "next_update": TIMES["expires_at"]}
    all_of_it = {"licenses": [{"id": "acme-2026", "serials": "all"}], "keys": [world.vendor.keys[0].kid]}
    world.write("3.json", other.sign(other.revocations(**listed, **all_of_it), kind=REVOCATIONS))
    by_name = other.revocations(**listed, **all_of_it, issuer="Acme")
    world.write("4.json", other.sign(by_name, kind=REVOCATIONS))
    world.write("5.json", other.sign(other.license(**TIMES, id="y", supersedes=["acme-2026"])))
    found = states(world.start())
    assert found.pop("a.json") == "valid"
    assert found == {
        "0.json": "unknown_key",
        "1.json": "unknown_key",
        "2.json": "unknown_key",
        "3.json": "valid",
        "4.json": "unknown_key",
        "5.json": "valid",
    }


def test_a_renewal_takes_over_when_it_starts(world: World) -> None:
    world.put("a.json")
    world.put("b.json", serial=2, starts_at="2026-06-02T00:00:00Z")
    keeper = world.start()
    assert states(keeper) == {"a.json": "valid", "b.json": "not_yet_valid"}
    assert not keeper.judge_again()
    world.clock.now = Moment(NOW + DAY, NOW + DAY)
    assert keeper.judge_again()
    assert states(keeper) == {"a.json": "superseded", "b.json": "valid"}
    assert states(world.start()) == {"a.json": "superseded", "b.json": "valid"}


def test_states_of_time_need_no_new_tables(world: World) -> None:
    world.put("a.json", terminates_at="2027-02-01T00:00:00Z", clock="strict")
    keeper = world.start()
    world.clock.now = Moment(NOW + 214 * DAY, NOW + 214 * DAY)
    assert not keeper.judge_again()
    assert states(keeper) == {"a.json": "grace"}
    world.clock.now = Moment(NOW + 250 * DAY, NOW + 250 * DAY)
    assert keeper.judge_again(), "there is room for others now"
    assert states(keeper) == {"a.json": "expired"}
    for hours in (48, 49):
        world.clock.now = Moment(NOW, NOW - timedelta(hours=hours))
        assert keeper.judge_again() == (hours == 48), "what it says is no change of tables"
        assert states(keeper) == {"a.json": "clock_rollback"}


def test_records_that_cannot_be_written(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    world.put("a.json")
    (world.path / "state").mkdir()
    (world.path / "state/licenses").write_text("in the way")
    keeper = world.start()
    assert states(keeper) == {"a.json": "valid"}
    assert "cannot be written" in keeper.problem
    world.write("a.json", b"{")
    keeper.refresh()
    assert states(keeper) == {"a.json": "malformed", "a.json*": "valid"}
    (world.path / "state/licenses").unlink()
    keeper.retry()
    assert not keeper.problem
    assert states(world.start()) == {"a.json": "malformed", "a.json*": "valid"}


@pytest.mark.parametrize("content", ["", "{", "[]", '{"highest": 1}', '{"file": 1}', "[" * 100_000])
def test_damaged_records_are_moved_away(world: World, content: str) -> None:
    world.put("a.json")
    world.revoke("r.json")
    world.start()
    folder = world.path / "state/licenses"
    for path in folder.iterdir():
        path.write_text(content)
    found = world.start()
    assert states(found) == {"a.json": "valid", "r.json": "valid"}


def test_too_many_files(world: World) -> None:
    for number in range(258):
        world.write(f"{number:03}.json", b"{}")
    keeper = world.start()
    assert len(keeper.reports) == 256
    assert "2 documents are too many" in str(keeper.findings[0])


def test_a_key_that_anyone_can_write_is_not_pinned(world: World) -> None:
    world.put("a.json")
    for path in world.keys.iterdir():
        path.chmod(0o666)
    keeper = world.start()
    assert states(keeper) == {"a.json": "unknown_key"}
    paths = sorted(world.keys.iterdir())
    assert [str(one) for one in keeper.findings] == [
        *(f"{path}: everybody may write to it (chmod o-w)" for path in paths),
        *(f"{path}: the key is not used" for path in paths),
    ]


def test_a_key_file_that_pins_nothing_says_so(world: World) -> None:
    path = max(world.keys.iterdir())
    path.write_text("kid: x\n")
    assert [str(one) for one in world.start().findings][-1] == f"{path}: the key is not used"


def test_a_folder_that_anyone_can_write_is_told_once_for_all_its_keys(world: World) -> None:
    world.keys.chmod(0o777)
    told = [str(one) for one in world.start().findings]
    assert told == [
        f"{world.keys}: everybody may write to it (chmod o-w)",
        *(f"{path}: the key is not used" for path in sorted(world.keys.iterdir())),
    ]


def test_reports_are_of_the_document(world: World) -> None:
    world.put("a.json", extensions={"order": "4711"})
    report = world.start().reports[0]
    assert report.verified
    assert report.kid == world.vendor.keys[0].kid
    assert report.document is not None
    assert json.loads(json.dumps(report.document.extensions)) == {"order": "4711"}
    assert replace(report.standing, why="").state is State.VALID


def test_a_folder_that_cannot_be_read_and_a_missing_verdict_are_problems(world: World) -> None:
    world.put("a.json")
    keeper = world.start()
    assert (keeper.problem, keeper.no_verdict) == ("", "")
    world.keys.rename(world.path / "away")
    keeper.refresh()
    assert "the folder is gone" in keeper.problem
    assert keeper.no_verdict == ""
    (world.path / "away").rename(world.keys)
    world.put("b.json", id="other")
    world.verify.fails = True
    keeper.refresh()
    assert "killed" in keeper.no_verdict
    assert keeper.problem == keeper.no_verdict
    assert states(keeper) == {"a.json": "valid", "b.json": "unverified"}
    world.verify.fails = False
    keeper.refresh()
    assert (keeper.problem, states(keeper)["b.json"]) == ("", "valid")
