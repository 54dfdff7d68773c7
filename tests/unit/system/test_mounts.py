from __future__ import annotations

from pathlib import Path

from agent.system.mounts import Mount, read_mounts


def test_mounts_are_read_with_and_without_optional_fields(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    table.write_bytes(
        b"22 1 254:0 / / rw,relatime shared:1 master:4 - ext4 /dev/vda rw\n"
        b"60 22 0:4 net:[4026532000] /run/netns/blue rw - nsfs nsfs rw\n"
        b"61 22 0:5 /a\\134b /mnt/a\\040b\\011c rw - xfs /dev/vdb rw\n"
        b"\n"
        b"truncated\n"
    )
    assert list(read_mounts(table)) == [
        Mount("/", "/", "ext4"),
        Mount("net:[4026532000]", "/run/netns/blue", "nsfs"),
        Mount("/a\\b", "/mnt/a b\tc", "xfs"),
    ]
