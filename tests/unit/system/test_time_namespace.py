"""A boot clock that is not the host's is refused, in this process and in its children."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.system.time_namespace import refuse_shifted_boot_clock

INITIAL, OTHER, THIRD = "time:[4026531834]", "time:[4026532601]", "time:[4026532602]"
NONE = "monotonic           0         0\nboottime            0         0\n"
DAY = "monotonic           0         0\nboottime        86400         0\n"
A_NANOSECOND = "monotonic           0         0\nboottime            0         1\n"
MONOTONIC = "monotonic       86400         0\nboottime            0         0\n"


@pytest.fixture
def process(tmp_path: Path) -> Path:
    (tmp_path / "ns").mkdir()
    return tmp_path


def put(process: Path, own: str, of_children: str, offsets: str) -> None:
    (process / "ns" / "time").symlink_to(own)
    (process / "ns" / "time_for_children").symlink_to(of_children)
    (process / "timens_offsets").write_text(offsets)


def test_this_process_is_in_the_hosts() -> None:
    refuse_shifted_boot_clock()


@pytest.mark.parametrize(
    ("own", "of_children", "offsets"),
    [(INITIAL, INITIAL, NONE), (OTHER, OTHER, NONE), (OTHER, OTHER, MONOTONIC), (INITIAL, OTHER, NONE)],
)
def test_an_unshifted_boot_clock_is_fine(process: Path, own: str, of_children: str, offsets: str) -> None:
    put(process, own, of_children, offsets)
    refuse_shifted_boot_clock(process)


@pytest.mark.parametrize(
    ("own", "of_children", "offsets", "what"),
    [
        (OTHER, OTHER, DAY, "shifted by 86400 s"),
        (OTHER, OTHER, DAY.replace("86400", "-60"), "shifted by -60 s"),
        (OTHER, OTHER, "1 0 0\n7 5 0\n", "shifted by 5 s"),
        (OTHER, OTHER, A_NANOSECOND, "shifted by 0 s"),
        (INITIAL, OTHER, DAY, "shifted by 86400 s"),
        (OTHER, INITIAL, NONE, "another time namespace"),
        (OTHER, THIRD, NONE, "another time namespace"),
        (OTHER, OTHER, "", "cannot be looked at"),
        (OTHER, OTHER, "boottime x 0\n", "cannot be looked at"),
    ],
)
def test_a_shifted_or_unknown_one_is_refused(
    process: Path, own: str, of_children: str, offsets: str, what: str
) -> None:
    put(process, own, of_children, offsets)
    with pytest.raises(KernelError, match=f"{process}/timens_offsets: .*{what}"):
        refuse_shifted_boot_clock(process)


def test_a_kernel_without_time_namespaces_is_fine(process: Path) -> None:
    refuse_shifted_boot_clock(process)


@pytest.mark.root
@pytest.mark.parametrize(("shift", "code"), [("86400", 1), ("0", 0)])
def test_in_a_real_one(shift: str, code: int) -> None:
    program = "from agent.system.time_namespace import refuse_shifted_boot_clock as r; r()"
    command = ["unshare", "--time", "--boottime", shift, sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    assert ("/proc/self/timens_offsets: the boot clock is shifted by 86400 s" in done.stderr) == bool(code)
