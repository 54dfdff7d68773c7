from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from agent.model import Container, Process
from agent.observe.proc import MAX_ARGS_BYTES, ProcReader, UserNames
from tests.unit.observe.proc_tree import add_process, hold, remove_process

CONTAINER = "f" * 64


class Users(UserNames):
    def name_of(self, uid: int) -> str:
        return {0: "root", 26: "postgres"}[uid]


@pytest.fixture
def reader(tmp_path: Path) -> ProcReader:
    return ProcReader(tmp_path, users=Users(), ticks_per_s=100)


def read(reader: ProcReader, pid: int = 7) -> Process:
    process = reader.process(pid)
    assert process is not None
    return process


def test_a_process_is_read_whole(reader: ProcReader, tmp_path: Path) -> None:
    add_process(
        tmp_path,
        7,
        uids=(0, 26, 0, 0),
        gids=(0, 26, 0, 0),
        groups=(104, 5),
        start_ticks=1234,
        netns=4026532000,
    )
    assert reader.process(7, {4026532000: 91}) == Process(
        pid=7,
        start_boot_ns=12_340_000_000,
        comm="postgres",
        exe="/usr/bin/postgres",
        args=("postgres", "-D", "/var/lib/data"),
        uid=26,
        user="postgres",
        gid=26,
        gids=(5, 26, 104),
        cgroup="/system.slice/postgresql.service",
        unit="postgresql.service",
        netns=91,
    )


def test_a_process_that_is_gone_is_none(reader: ProcReader) -> None:
    assert reader.process(7) is None
    assert reader.stat(7) is None
    assert reader.exe(7) == ""
    assert reader.fds(7) == {}
    assert reader.netns_inode(7) == 0
    assert not reader.names_are_trusted(7)


def test_a_process_that_goes_while_it_is_read_is_none(reader: ProcReader, tmp_path: Path) -> None:
    (add_process(tmp_path, 7) / "stat").write_text("")
    assert reader.process(7) is None


@pytest.mark.parametrize("comm", ["a b", "x) S 1 (y", "(((", ") ) )"])
def test_a_comm_with_blanks_and_parentheses_does_not_shift_the_fields(
    reader: ProcReader, tmp_path: Path, comm: str
) -> None:
    add_process(tmp_path, 7, comm=comm, start_ticks=99)
    process = read(reader)
    assert (process.comm, process.start_boot_ns) == (comm, 990_000_000)


def test_a_deleted_executable_keeps_its_path(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7, exe="/opt/app/bin/app (deleted)")
    assert read(reader).exe == "/opt/app/bin/app"


def test_a_kernel_thread_has_neither_executable_nor_arguments(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7, comm="kworker/0:1", exe=None, cmdline=b"", cgroup="/")
    process = read(reader)
    assert (process.exe, process.args, process.unit) == ("", (), "")


@pytest.mark.parametrize(
    ("cmdline", "args"),
    [
        (b"sh\0-c\0a b\0", ("sh", "-c", "a b")),
        (b"x\0\0y\0", ("x", "", "y")),
        (b"nginx: master process\0\0\0\0", ("nginx: master process",)),
        (b"no-end", ("no-end",)),
        (b"\xff\xfe\0", ("\udcff\udcfe",)),
        (b"\0\0", ()),
    ],
)
def test_arguments_are_split_at_nul(
    reader: ProcReader, tmp_path: Path, cmdline: bytes, args: tuple[str, ...]
) -> None:
    add_process(tmp_path, 7, cmdline=cmdline)
    assert read(reader).args == args


def test_a_command_line_of_megabytes_is_cut(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7, cmdline=b"x\0" * 1_000_000)
    assert len(read(reader).args) == MAX_ARGS_BYTES // 2


def test_a_container_is_named_by_its_cgroup(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7, cgroup=f"/system.slice/docker-{CONTAINER}.scope")
    process = read(reader)
    assert process.container == Container(CONTAINER, "docker")
    assert process.unit == f"docker-{CONTAINER}.scope"


def test_a_process_in_a_removed_cgroup_keeps_its_name(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7, cgroup="/system.slice/gone.service (deleted)")
    assert read(reader).unit == "gone.service"


def test_the_cgroup_id_comes_from_the_mount(tmp_path: Path) -> None:
    (tmp_path / "cgroup" / "a.service").mkdir(parents=True)
    add_process(tmp_path / "proc", 7, cgroup="/a.service")
    reader = ProcReader(tmp_path / "proc", cgroup_mount=tmp_path / "cgroup")
    assert read(reader).cgroup_id == (tmp_path / "cgroup" / "a.service").stat().st_ino


def test_an_unknown_uid_has_no_name(tmp_path: Path) -> None:
    assert UserNames().name_of(0) == "root"
    assert UserNames().name_of(3_999_999_999) == ""


def test_user_names_are_asked_for_again_after_a_while(monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    names = UserNames(clock=lambda: now[0])
    asked: list[int] = []

    def getpwuid(uid: int) -> object:
        asked.append(uid)
        raise KeyError

    monkeypatch.setattr("pwd.getpwuid", getpwuid)
    for now[0] in (0.0, 10.0, 1000.0):
        assert names.name_of(12345) == ""
    assert asked == [12345, 12345]


def test_start_times_are_compared_in_clock_ticks(reader: ProcReader) -> None:
    assert reader.same_process(12_340_000_000, 12_340_000_000)
    assert reader.same_process(12_340_000_000, 12_349_999_999)
    assert not reader.same_process(12_340_000_000, 12_350_000_000)
    assert not reader.same_process(12_340_000_000, 12_339_999_999)


def test_only_sockets_are_listed_of_the_descriptors(reader: ProcReader, tmp_path: Path) -> None:
    place = add_process(tmp_path, 7, sockets={3: 111, 17: 222})
    (place / "fd" / "4").symlink_to("pipe:[333]")
    (place / "fd" / "5").symlink_to("anon_inode:[eventpoll]")
    assert reader.fds(7) == {3: 111, 17: 222}
    assert reader.holds_all(7, {111: 3})
    assert not reader.holds_all(7, {222: 3})
    assert not reader.holds_all(7, {111: 3, 333: 4})
    assert not reader.holds_all(8, {111: 3})


def test_pids_are_the_numbers_in_proc(reader: ProcReader, tmp_path: Path) -> None:
    for pid in (10, 9):
        add_process(tmp_path, pid)
    (tmp_path / "self").mkdir()
    (tmp_path / "1x").mkdir()
    assert reader.pids() == [9, 10]
    remove_process(tmp_path, 9)
    assert reader.pids() == [10]


def test_this_very_process_is_read_from_the_real_proc() -> None:
    process = ProcReader().process(os.getpid())
    assert process is not None
    assert process.exe == os.path.realpath("/proc/self/exe")
    assert process.uid == os.geteuid()
    assert set(process.gids) == {os.getegid(), *os.getgroups()}
    assert process.start_boot_ns > 0


def test_a_descriptor_that_appears_is_seen(reader: ProcReader, tmp_path: Path) -> None:
    add_process(tmp_path, 7)
    assert reader.fds(7) == {}
    hold(tmp_path, 7, 3, 55)
    assert reader.fds(7) == {3: 55}


EXCHANGE = 'exec "$2" -c "$3" - "$2" "$1" "$3"'
"""Of a shell, which becomes the other one at once: its arguments are itself, the other one and this."""


def test_the_arguments_of_a_process_are_those_of_its_executable(tmp_path: Path) -> None:
    """It becomes another program hundreds of times a second."""
    one, other = (str(tmp_path / name) for name in ("one", "other"))
    for copy in (one, other):
        shutil.copy2(os.path.realpath("/bin/sh"), copy)
    process = subprocess.Popen([one, "-c", EXCHANGE, "-", one, other, EXCHANGE])
    try:
        seen = [ProcReader().process(process.pid) for _ in range(2000)]
    finally:
        process.kill()
        process.wait()
    told = [one for one in seen if one is not None and one.args]
    assert len(told) > 100
    assert [one for one in told if one.args[0] != one.exe or one.comm != Path(one.exe).name] == []
