"""What /proc shows of a process counts only as far as it is still what the kernel saw."""

from __future__ import annotations

from pathlib import Path

import pytest

from agent.daemon.tracking.attribution import RECENT, RECENT_S, Attributor, is_same_program
from agent.model import Process
from agent.observe.proc import ProcReader, UserNames
from tests.unit.observe.proc_tree import add_process, remove_process

BASH = Process(pid=7, start_boot_ns=10_000_000_000, exe="/usr/bin/bash", uid=0, gid=0)


@pytest.fixture
def attributor(tmp_path: Path) -> Attributor:
    cgroups = tmp_path / "cgroups"
    cgroups.mkdir()
    (tmp_path / "proc").mkdir()
    return Attributor(ProcReader(tmp_path / "proc", ticks_per_s=100), cgroups, UserNames())


def test_arguments_are_those_of_the_program_that_was_seen(attributor: Attributor, tmp_path: Path) -> None:
    add_process(tmp_path / "proc", 7, comm="bash", exe="/usr/bin/bash", cmdline=b"bash\0-c\0x\0")
    assert attributor.complete(BASH).args == ("bash", "-c", "x")


def test_what_a_process_became_since_says_nothing_of_what_it_was(
    attributor: Attributor, tmp_path: Path
) -> None:
    add_process(tmp_path / "proc", 7, comm="sleep", exe="/usr/bin/sleep", cmdline=b"sleep\0006\0")
    completed = attributor.complete(BASH)
    assert (completed.exe, completed.comm, completed.args) == ("/usr/bin/bash", "", ())
    assert completed.cgroup, "it is the same process, in the same cgroup"


def test_what_was_learned_while_it_was_there_is_known_when_it_is_gone(
    attributor: Attributor, tmp_path: Path
) -> None:
    attributor.complete(BASH, comm="bash", args=("bash", "-c", "x"))
    assert attributor.complete(BASH).args == ("bash", "-c", "x")
    place = add_process(tmp_path / "proc", 7, comm="sleep", exe="/usr/bin/sleep", cmdline=b"sleep\0006\0")
    assert attributor.complete(BASH).args == ("bash", "-c", "x"), "and when it has become another"
    sleep = Process(pid=7, start_boot_ns=BASH.start_boot_ns, exe="/usr/bin/sleep")
    assert attributor.complete(sleep).args == ("sleep", "6")
    assert place.exists()
    remove_process(tmp_path / "proc", 7)
    assert attributor.complete(sleep).args == ("sleep", "6")


def test_another_process_of_the_same_pid_is_another(attributor: Attributor) -> None:
    attributor.complete(BASH, comm="bash", args=("bash", "-c", "x"))
    later = Process(pid=7, start_boot_ns=BASH.start_boot_ns + 10**9, exe="/usr/bin/bash")
    assert attributor.complete(later).args == ()


def test_a_whole_path_takes_the_place_of_one_that_was_cut(attributor: Attributor, tmp_path: Path) -> None:
    whole = "/a/" + "d/" * 24 + "x"
    add_process(tmp_path / "proc", 7, exe=whole)
    deep = Process(pid=7, start_boot_ns=BASH.start_boot_ns, exe="…/" + "d/" * 23 + "x")
    assert attributor.complete(deep).exe == whole


def test_a_program_has_one_name_also_when_it_has_ended(attributor: Attributor, tmp_path: Path) -> None:
    whole = "/a/" + "d/" * 24 + "x"
    add_process(tmp_path / "proc", 7, exe=whole)
    deep = Process(pid=7, start_boot_ns=BASH.start_boot_ns, exe="…/" + "d/" * 23 + "x")
    assert attributor.complete(deep).exe == whole
    remove_process(tmp_path / "proc", 7)
    assert attributor.complete(deep).exe == whole


@pytest.mark.parametrize(
    ("seen", "live", "same"),
    [
        ("/usr/bin/bash", "/usr/bin/bash", True),
        ("/usr/bin/bash", "/usr/bin/sleep", False),
        ("/usr/bin/bash", "", False),
        ("", "/usr/bin/bash", False),
        ("", "", True),
        ("memfd:", "memfd:", True),
        ("memfd:", "/usr/bin/sleep", False),
        ("…/b/c", "/a/b/c", True),
        ("…/b/c", "/a/x/c", False),
        ("/opt/" + "x" * 95 + "/run…", "/opt/" + "x" * 120 + "/run", True),
        ("/opt/" + "x" * 95 + "/run…", "/opt/" + "x" * 94 + "/run", False),
    ],
)
def test_a_path_is_compared_as_far_as_it_was_told(seen: str, live: str, same: bool) -> None:
    assert is_same_program(seen, live) is same


def test_one_who_is_met_again_at_once_is_not_read_again(
    attributor: Attributor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = 100.0
    monkeypatch.setattr("agent.daemon.tracking.attribution.time.monotonic", lambda: now_s)
    add_process(tmp_path / "proc", 7, comm="bash", exe="/usr/bin/bash", cmdline=b"bash\0")
    first = attributor.recent(BASH, "bash")
    remove_process(tmp_path / "proc", 7)
    assert attributor.recent(BASH, "bash") is first
    assert attributor.recent(BASH, "other") is not first
    now_s += RECENT_S
    assert attributor.recent(BASH, "bash") is not first
    for number in range(RECENT):
        attributor.recent(BASH, str(number))
    assert len(attributor._recent) <= RECENT
