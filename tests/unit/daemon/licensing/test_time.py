"""License time across runs of the daemon: stored, taken up again, and never a reason to stop."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.daemon.licensing.time import LicenseTime
from agent.license.clock import RELEASED_NS, SECOND_NS
from agent.state_files import State
from agent.system.boottime import boot_id, clocks

DAMAGED = (
    *(b"", b"{", b"[]", b"5", b"null", b"\xff", 9000 * b"[", b"{}", b"9" * 9000, b" " * (70 << 10) + b"{}"),
    *(b'{"format": 2}', b'{"seen_unix_s": null}', b'{"seen_unix_s": NaN}'),
)
START_NS = RELEASED_NS + 90 * 86400 * SECOND_NS


@dataclass
class Machine:
    folder: Path
    up_s: int = 30
    wall_s: int = START_NS // SECOND_NS
    boot: str = "a boot"

    def start(self) -> LicenseTime:
        return LicenseTime(
            self.folder,
            read=lambda: (self.up_s * SECOND_NS, self.wall_s * SECOND_NS),
            boot=lambda: self.boot,
        )

    def runs(self, seconds: int) -> None:
        self.up_s, self.wall_s = self.up_s + seconds, self.wall_s + seconds

    def license_s(self, time: LicenseTime) -> float:
        return (time.now.offset_ns + self.up_s * SECOND_NS) / SECOND_NS


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


def test_another_run_goes_on_whatever_the_wall_clock_says(machine: Machine) -> None:
    right_s = machine.wall_s
    machine.start().store(State(machine.folder))
    for wall_s in (0, right_s - 365 * 86400, right_s + 10**9):
        machine.wall_s = wall_s
        again = machine.start()
        assert machine.license_s(again) == right_s
        assert again.damage == ""
        again.store(State(machine.folder))


def test_what_was_proven_is_where_the_next_boot_begins(machine: Machine) -> None:
    time, right_s = machine.start(), machine.wall_s
    for _ in range(13):
        machine.runs(300)
        time.look()
    time.store(State(machine.folder))
    machine.boot, machine.up_s, machine.wall_s = "another", 5, 0
    assert machine.license_s(machine.start()) == right_s + 13 * 300


def test_the_file_of_0_1_0_goes_on(machine: Machine) -> None:
    offset_ns = (machine.wall_s - machine.up_s) * SECOND_NS
    stored = {"seen_unix_s": machine.wall_s + 0.25, "boot": machine.boot, "offset_ns": offset_ns}
    (machine.folder / "clock.json").write_text(json.dumps(stored))
    machine.wall_s -= 9000
    time = machine.start()
    assert (time.now.offset_ns, time.damage) == (offset_ns, "")
    time.store(State(machine.folder))
    assert machine.start().now.offset_ns == offset_ns


def test_a_move_is_stored_without_waiting_for_the_minute(machine: Machine) -> None:
    time, state = machine.start(), State(machine.folder)
    assert time.has_moved
    time.store(state)
    machine.runs(60)
    time.look()
    assert not time.has_moved
    machine.wall_s += 1
    time.look()
    assert time.has_moved
    time.store(state)
    assert not time.has_moved


@pytest.mark.parametrize("content", DAMAGED)
def test_a_damaged_file_is_named_and_time_starts_anew(machine: Machine, content: bytes) -> None:
    (machine.folder / "clock.json").write_bytes(content)
    time = machine.start()
    assert f"{machine.folder}/clock.json: damaged: " in time.damage
    assert "license time starts anew" in time.damage
    assert machine.license_s(time) == machine.wall_s
    machine.wall_s = 0
    assert machine.start().now.offset_ns == RELEASED_NS - machine.up_s * SECOND_NS
    time.store(State(machine.folder))
    assert machine.start().damage == ""


def _socket(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(path))


@pytest.mark.parametrize("make", [os.mkfifo, Path.mkdir, lambda path: path.symlink_to("/dev/zero"), _socket])
def test_what_is_no_file_holds_nobody_up(machine: Machine, make: Callable[[Path], None]) -> None:
    make(machine.folder / "clock.json")
    time = machine.start()
    assert "clock.json: cannot be read: it is " in time.damage
    assert machine.license_s(time) == machine.wall_s


def test_a_disk_that_is_full_moves_nothing(machine: Machine) -> None:
    (machine.folder / "clock.json").mkdir()
    time, state = machine.start(), State(machine.folder)
    machine.runs(60)
    time.store(state)
    assert "clock.json: cannot be written" in state.problem
    assert machine.license_s(time) == machine.wall_s
    (machine.folder / "clock.json").rmdir()
    state.retry()
    assert machine.license_s(machine.start()) == machine.wall_s


def test_the_host_has_a_boot_and_two_clocks(tmp_path: Path) -> None:
    boot_ns, wall_ns = clocks()
    now = LicenseTime(tmp_path).now
    assert now.boot == boot_id()
    assert boot_ns <= now.boot_ns <= clocks()[0]
    assert abs(now.wall_offset_ns - (wall_ns - boot_ns)) < SECOND_NS


def test_a_reader_that_is_stopped_between_two_reads_reads_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGSTOP, or a busy processor: the clocks must not seem an hour apart."""
    now_ns, reads = 10**12, iter([0, 0, 3600 * SECOND_NS, 0, 0, 0])

    def read(clock: int) -> int:
        nonlocal now_ns
        now_ns += next(reads)
        return now_ns

    monkeypatch.setattr("time.clock_gettime_ns", read)
    boot_ns, wall_ns = clocks()
    assert wall_ns == boot_ns


def test_a_file_that_cannot_be_read_now_is_read_later_and_not_written_over(machine: Machine) -> None:
    machine.start().store(State(machine.folder))
    path, aside = machine.folder / "clock.json", machine.folder / "aside"
    ahead_s = 365 * 24 * 3600
    machine.wall_s += ahead_s  # a restart believes no clock
    path.rename(aside)
    path.symlink_to("clock.json")  # a link to itself
    time, state = machine.start(), State(machine.folder)
    for _ in range(2):
        machine.runs(60)
        time.look()
        time.store(state)
        assert time.has_moved
        assert path.is_symlink()
        assert "clock.json: cannot be read: Too many levels" in time.problem
    assert time.damage == ""
    assert machine.license_s(time) == machine.wall_s
    path.unlink()
    aside.rename(path)
    time.store(state)
    assert machine.license_s(time) == machine.wall_s - ahead_s
    assert "cannot be read" not in time.problem
    assert machine.license_s(machine.start()) == machine.wall_s - ahead_s


def test_a_file_that_turns_out_to_be_damaged_is_written_anew(machine: Machine) -> None:
    path = machine.folder / "clock.json"
    path.symlink_to("clock.json")
    time, state = machine.start(), State(machine.folder)
    path.unlink()
    path.write_text("{")
    time.store(state)
    assert "clock.json: damaged" in time.damage
    assert machine.start().damage == ""
