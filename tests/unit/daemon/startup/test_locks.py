from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from agent.daemon.startup.locks import RunLock
from agent.errors import AlreadyRunning, KernelError
from tests.unit.test_state_files import LIES_THERE


@pytest.mark.parametrize("kind", ["a FIFO", "a directory", "a socket"])
def test_a_lock_that_is_no_file_is_named(tmp_path: Path, kind: str) -> None:
    LIES_THERE[kind](tmp_path / "licet.lock")
    said = rf"licet\.lock: cannot be opened: it is {kind}, and a file is expected; remove it"
    with pytest.raises(KernelError, match=said):
        RunLock(tmp_path)


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
    dies = "import sys, os, pathlib; from agent.daemon.startup.locks import RunLock; "
    dies += "held = RunLock(pathlib.Path(sys.argv[1])); os._exit(9)"
    child = subprocess.run([sys.executable, "-c", dies, str(tmp_path)], check=False)
    assert child.returncode == 9
    RunLock(tmp_path).release()


def test_a_run_directory_that_cannot_be_made_is_an_error_with_its_name(tmp_path: Path) -> None:
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    with pytest.raises(KernelError, match="file/below"):
        RunLock(in_the_way / "below")
