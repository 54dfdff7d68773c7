from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.daemon.state import RunLock, State
from agent.errors import AlreadyRunning, KernelError
from agent.model import PortClass, Target
from agent.policy.ids import Ids

DB = Target("db", PortClass.INTERNAL)


def test_a_second_daemon_is_told_who_runs(tmp_path: Path) -> None:
    lock = RunLock(tmp_path / "run")
    with pytest.raises(AlreadyRunning, match=rf"pid {os.getpid()}\b.*paths\.run"):
        RunLock(tmp_path / "run")
    lock.release()


def test_a_refused_daemon_leaves_the_lock_to_its_holder(tmp_path: Path) -> None:
    lock = RunLock(tmp_path)
    for _ in range(2):
        with pytest.raises(AlreadyRunning):
            RunLock(tmp_path)
    lock.release()
    RunLock(tmp_path).release()


def test_daemons_with_their_own_run_directories_do_not_meet(tmp_path: Path) -> None:
    locks = [RunLock(tmp_path / name) for name in ("a", "b")]
    for lock in locks:
        lock.release()


def test_the_lock_of_a_daemon_that_died_is_free(tmp_path: Path) -> None:
    dies = "import sys, os, pathlib; from agent.daemon.state import RunLock; "
    dies += "held = RunLock(pathlib.Path(sys.argv[1])); os._exit(9)"
    child = subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False)
    assert child.returncode == 9
    RunLock(tmp_path).release()


@pytest.mark.parametrize("make", [RunLock, State])
def test_a_directory_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path, make: type) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(KernelError, match="file/below"):
        make(in_the_way / "below")


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
        b"{",
        b"\xff\xfe",
        b"[]",
        b"5",
        b'{"targets": []}',
        b'{"targets": {"db/nonsense": 1}}',
        b'{"grants": 5}',
    ],
)
def test_damaged_ids_are_an_error_that_says_what_to_remove(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "ids.json").write_bytes(content)
    with pytest.raises(KernelError, match=r"ids\.json: damaged .*licet unload && rm"):
        State(tmp_path).ids()


def test_a_failure_to_store_names_the_file_and_keeps_what_was_there(tmp_path: Path) -> None:
    state = State(tmp_path)
    state.store_ids(Ids())
    (tmp_path / ".ids.json.new").mkdir()  # so that it can't be written, by root either
    changed = Ids()
    changed.target(DB)
    with pytest.raises(KernelError, match=r"ids\.json"):
        state.store_ids(changed)
    assert state.ids().targets == {}


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"seen_unix_s": null}', '{"seen_unix_s": "x"}'])
def test_a_damaged_clock_file_is_no_time_at_all(tmp_path: Path, content: str) -> None:
    (tmp_path / "clock.json").write_text(content)
    assert State(tmp_path).newest_time() == 0.0


def test_the_stored_time_never_goes_back(tmp_path: Path) -> None:
    state = State(tmp_path)
    assert state.newest_time() == 0.0
    state.store_time()
    assert state.newest_time() > 1_700_000_000
    far_ahead = 99_999_999_999.0
    (tmp_path / "clock.json").write_text(f'{{"seen_unix_s": {far_ahead}}}')
    state.store_time()
    assert State(tmp_path).newest_time() == far_ahead
