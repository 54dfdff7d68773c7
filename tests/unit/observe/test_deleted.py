"""The mark " (deleted)", which the kernel puts behind a name and anybody may put into one."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from agent.observe.cgroup import directory
from agent.observe.proc import ProcReader
from agent.observe.unasked import File
from tests.unit.observe.proc_tree import add_process

MARK = " (deleted)"
SLEEP = Path(shutil.which("sleep") or "/bin/sleep").resolve()

Start = Callable[[Path], int]


@pytest.fixture
def start() -> Iterator[Start]:
    """Runs a copy of sleep at a path; its pid."""
    with ExitStack() as stack:

        def started(path: Path) -> int:
            shutil.copy2(SLEEP, path)
            process = subprocess.Popen([path, "60"])  # returns once execve() has succeeded
            stack.callback(process.wait)
            stack.callback(process.kill)
            return process.pid

        yield started


@pytest.fixture
def reader() -> ProcReader:
    return ProcReader()


def seen(reader: ProcReader, pid: int) -> str:
    process = reader.process(pid)
    assert process is not None
    assert process.exe == reader.exe(pid)
    return process.exe


def test_a_program_whose_name_ends_like_the_mark_is_itself(
    reader: ProcReader, start: Start, tmp_path: Path
) -> None:
    """Whoever may write into the folder could else pass for the program beside it."""
    licensed, imitation = tmp_path / "x", tmp_path / f"x{MARK}"
    shutil.copy2(SLEEP, licensed)
    assert seen(reader, start(imitation)) == str(imitation)
    assert seen(reader, start(licensed)) == str(licensed)


def test_a_program_that_was_replaced_keeps_its_name(reader: ProcReader, start: Start, tmp_path: Path) -> None:
    path = tmp_path / "x"
    pid = start(path)
    path.unlink()
    assert os.readlink(f"/proc/{pid}/exe") == f"{path}{MARK}"
    assert seen(reader, pid) == str(path)
    shutil.copy2(SLEEP, path)
    assert seen(reader, pid) == str(path)


def test_only_one_mark_is_the_kernels(reader: ProcReader, start: Start, tmp_path: Path) -> None:
    imitation = tmp_path / f"x{MARK}"
    pid = start(imitation)
    imitation.unlink()
    assert seen(reader, pid) == str(imitation)


def test_a_program_that_was_removed_and_has_another_link_keeps_its_name(
    reader: ProcReader, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    pid = start(path)
    os.link(path, tmp_path / "backup")
    path.unlink()
    assert seen(reader, pid) == str(path)


def test_a_file_of_the_marked_name_is_not_taken_for_one_that_was_removed(
    reader: ProcReader, start: Start, tmp_path: Path
) -> None:
    path = tmp_path / "x"
    pid = start(path)
    path.unlink()
    shutil.copy2(SLEEP, tmp_path / f"x{MARK}")
    assert seen(reader, pid) == str(path)


@pytest.mark.parametrize("there", [True, False])
def test_a_cgroup_whose_name_ends_like_the_mark_is_itself(tmp_path: Path, there: bool) -> None:
    name = f"/user.slice/billing.service{MARK}"
    mount = tmp_path / "cgroup"
    mount.mkdir()
    if there:
        Path(directory(mount, name)).mkdir(parents=True)
    add_process(tmp_path / "proc", 7, cgroup=name)
    process = ProcReader(tmp_path / "proc", cgroup_mount=mount).process(7)
    assert process is not None
    assert process.cgroup == (name if there else name.removesuffix(MARK))
    assert (process.unit == "billing.service") is not there


def test_a_file_into_which_nobody_may_look_keeps_the_name_that_it_shows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file system that a user mounted and serves himself: root is refused, and the mark may be his."""

    def refused(_fd: int) -> File:
        raise PermissionError(errno.EACCES, "Permission denied")

    program = tmp_path / "tool (deleted)"
    shutil.copy2(os.path.realpath("/bin/sleep"), program)
    process = subprocess.Popen([program, "60"])
    reader = ProcReader()
    try:
        with monkeypatch.context() as patched:
            patched.setattr("agent.observe.exe_link.file_of", refused)
            shown = reader.exe(process.pid)
        assert shown == str(program)
    finally:
        process.kill()
        process.wait()


def test_a_program_in_memory_has_no_name_of_its_own(reader: ProcReader) -> None:
    program = os.memfd_create("/usr/bin/licensed")
    os.write(program, SLEEP.read_bytes())
    process = subprocess.Popen([f"/proc/self/fd/{program}", "60"], pass_fds=[program])
    try:
        assert seen(reader, process.pid) == "memfd:"
    finally:
        process.kill()
        process.wait()
        os.close(program)
