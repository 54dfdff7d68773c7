from __future__ import annotations

import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.model import PortClass, Target
from agent.policy.document.load import Source
from agent.policy.tables.ids import Ids
from agent.state_files import State, kept_time, last_good_policy

DB = Target("db", PortClass.INTERNAL)


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


LIES_THERE: dict[str, Callable[[Path], None]] = {
    "a FIFO": os.mkfifo,
    "a directory": Path.mkdir,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a socket": _socket,
}


def test_a_directory_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(KernelError, match="file/below"):
        State(in_the_way / "below")


def test_ids_outlive_the_daemon(tmp_path: Path) -> None:
    ids = State(tmp_path).ids()
    numbers = (ids.target(DB), ids.grant("acme/app/billing@db/internal"))
    State(tmp_path).store_ids(ids)
    again = State(tmp_path).ids()
    assert again.target_named(numbers[0]) == DB
    assert again.grant("acme/app/billing@db/internal") == numbers[1]
    assert again.target(Target("other", PortClass.ADMIN)) == 2


@pytest.mark.parametrize(
    "content",
    [
        b"",
        9000 * b"[",
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"targets": []}',
        b'{"targets": {"db/nonsense": 1}}',
        b'{"grants": 5}',
    ],
)
def test_damaged_ids_are_an_error_that_says_what_to_move_away(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.json").write_bytes(content)
    with pytest.raises(KernelError, match=r"ids\.json: damaged .*licet unload && mv"):
        State(tmp_path).ids()


def test_a_failure_to_store_names_the_file_and_keeps_what_was_there(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.store_ids(Ids())
    ids_file = tmp_path / "ids.json"
    before = ids_file.read_text()
    ids_file.unlink()
    ids_file.mkdir()  # so that it can't be written, by root either
    changed = Ids()
    changed.target(DB)
    state.store_ids(changed)
    assert f"{ids_file}: cannot be written" in state.problem
    assert [path.name for path in tmp_path.iterdir()] == ["ids.json"]
    ids_file.rmdir()
    ids_file.write_text(before)
    state.retry()
    assert state.problem == ""
    assert State(tmp_path).ids().target_named(1) == DB


def test_numbers_that_cannot_be_stored_live_as_long_as_what_counts_by_them(tmp_path: Path) -> None:
    folder, run = tmp_path / "state", tmp_path / "run"
    run.mkdir()
    (folder / "ids.json").mkdir(parents=True)
    state = State(folder, run)
    (folder / "ids.json").rmdir()
    ids = state.ids()
    (folder / "ids.json").mkdir()
    ids.target(DB)
    state.store_ids(ids)
    (folder / "ids.json").rmdir()
    again = State(folder, run)
    restored = again.ids()
    assert restored.target_named(1) == DB
    assert restored.target(Target("other", PortClass.ADMIN)) == 2
    again.store_ids(restored)
    assert not (run / "ids.json").exists()
    assert State(folder).ids().target_named(2) == Target("other", PortClass.ADMIN)


def test_ids_are_written_only_when_one_is_new(tmp_path: Path) -> None:
    state = State(tmp_path)
    ids = state.ids()
    ids.target(DB)
    state.store_ids(ids)
    before = (tmp_path / "ids.json").stat().st_ino
    state.store_ids(ids)
    assert (tmp_path / "ids.json").stat().st_ino == before


@pytest.mark.parametrize("name", ["ids.json", "clock.json", "policy.json", "uses.json"])
@pytest.mark.parametrize("kind", LIES_THERE)
def test_what_is_no_file_is_not_waited_for(tmp_path: Path, name: str, kind: str) -> None:
    """The error says which file, what it is, and what to do."""
    LIES_THERE[kind](tmp_path / name)
    state = State(tmp_path)
    assert state.kept_uses() == {}
    if name == "ids.json":
        with pytest.raises(KernelError) as refused:
            state.ids()
        assert f"ids.json: cannot be read: it is {kind}, and a file is expected; " in str(refused.value)
        assert f"licet unload && mv {tmp_path}/ids.json {tmp_path}/ids.json.bad" in str(refused.value)
    if name == "policy.json":
        with pytest.raises(KernelError, match=rf"it is {kind}, and a file is expected; move it away \(mv "):
            last_good_policy(tmp_path)
    assert state.kept_policy() == ()
    state.keep_time({"format": 2})
    if (name, kind) == ("clock.json", "a directory"):  # all else is replaced
        assert f"clock.json: cannot be written: Is a directory; move it away (mv {tmp_path}" in state.problem
    else:
        assert kept_time(tmp_path) == {"format": 2}


def test_the_last_good_policy_comes_back_as_it_was(tmp_path: Path) -> None:
    sources = (
        Source("/etc/licet/policy.yaml", "\ufeffversion: 1\n# ü\n".encode()),
        Source("/etc/licet/a.yml", b""),
    )
    assert State(tmp_path).kept_policy() == ()
    State(tmp_path).keep_policy(sources)
    assert State(tmp_path).kept_policy() == sources
    assert (tmp_path / "policy.json").stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("content", ["", "[]", 9000 * "[", '{"files": [{}]}', '{"files": 3}', "\x00"])
def test_a_damaged_last_good_policy_is_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "policy.json").write_text(content)
    assert State(tmp_path).kept_policy() == ()


def test_uses_come_back_in_the_same_boot(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert State(tmp_path).kept_uses() == {}
    State(tmp_path).keep_uses({"gone": [1]})
    assert State(tmp_path).kept_uses()["gone"] == [1]
    assert (tmp_path / "uses.json").stat().st_mode & 0o077 == 0
    monkeypatch.setattr("agent.state_files.boot_id", lambda: "another")
    assert State(tmp_path).kept_uses() == {}


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"3", b"{}", b"\xff", 9000 * b"[", b"[" * (17 << 20), b'{"boot": 1}']
)
def test_damaged_uses_are_none(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "uses.json").write_bytes(content)
    assert State(tmp_path).kept_uses() == {}


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_of_uses_is_none(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "uses.json")
    assert State(tmp_path).kept_uses() == {}
