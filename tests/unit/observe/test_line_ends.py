"""Only a newline ends a line of /proc. Other bytes at which Python ends lines, and other blanks, are part of
names that anybody chooses."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.observe import places, proc_files
from agent.system.mounts import Mount, read_mounts

FEIGNED = "c\r1 2 8:1 /x / rw\x85\u2028 \u00a0y"


@pytest.fixture
def process(tmp_path: Path) -> Path:
    lines = (
        "22 1 254:0 / / rw shared:1 - ext4 /dev/vda rw",
        f"90 22 0:77 / /tmp/{FEIGNED.replace(' ', chr(92) + '040')} rw - tmpfs none rw",
        "91 22 0:78 / /tmp/a\rb rw - tmpfs none rw",
        "92 22 0:79 / /tmp/b\r/ rw - tmpfs none rw",
    )
    (tmp_path / "mountinfo").write_bytes("\n".join(lines).encode() + b"\n")
    return tmp_path


def test_a_mount_point_makes_no_line(process: Path) -> None:
    fd = os.open(process, os.O_RDONLY)
    try:
        assert places._root_of(fd) == ("254:0", "/")
    finally:
        os.close(fd)
    assert list(read_mounts(process / "mountinfo")) == [
        Mount("/", "/", "ext4"),
        Mount("/", f"/tmp/{FEIGNED}", "tmpfs"),
        Mount("/", "/tmp/a\rb", "tmpfs"),
        Mount("/", "/tmp/b\r/", "tmpfs"),
    ]


def test_a_cgroup_makes_no_line() -> None:
    assert proc_files.parse_cgroup(b"1:cpu:/x\n0::/a/billing.service\rx\n") == "/a/billing.service\rx"


def test_a_name_makes_no_line() -> None:
    status = b"Name:\tx\rUid:\t0\t0\t0\t0\nUid:\t7\t7\t7\t7\nGid:\t8\t8\t8\t8\nGroups:\t9 \n"
    assert proc_files.parse_status(status)["Uid"] == [b"7"] * 4
