from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.system.mount_ids import is_mount, mount_id
from tests.fixtures.mounts import TMPFS, mounted


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")
@pytest.mark.parametrize("kind", ["tmpfs", "bind"])
def test_a_mount_has_an_id_of_its_own_and_what_is_in_it_has_the_same(tmp_path: Path, kind: str) -> None:
    (tmp_path / "other").mkdir()
    folder = tmp_path / "folder"
    with mounted(folder, TMPFS if kind == "tmpfs" else ("--bind", tmp_path / "other")):
        (folder / "in").mkdir()
        (tmp_path / "link").symlink_to(folder)
        assert mount_id(folder) == mount_id(folder / "in") != mount_id(tmp_path)
        assert [is_mount(tmp_path / one) for one in ("folder", "link", "folder/in", "other")] == [
            True,
            True,
            False,
            False,
        ]
    assert not is_mount(folder)
    assert mount_id(folder) == mount_id(tmp_path)


def test_what_is_not_there_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        mount_id(tmp_path / "nothing")
