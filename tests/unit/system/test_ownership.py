"""Who else could write what root's agent reads. Owners are other users', which takes root to make."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.system import ownership
from agent.system.ownership import doubts

STRANGER = 65001
root = pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files away")


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """etc/licet/policy.yaml below a folder that nobody else can change."""
    path = tmp_path / "etc" / "licet" / "policy.yaml"
    path.parent.mkdir(parents=True)
    path.write_text("version: 1\n")
    return path


def refused(path: Path) -> list[Path]:
    return [doubt.path for doubt in doubts([path]) if doubt.refuses]


def test_a_file_that_only_root_can_write_is_no_doubt(file: Path) -> None:
    assert doubts([file]) == []


@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_file_or_folder_that_everybody_can_write_is_refused(file: Path, level: int) -> None:
    place = [file, *file.parents][level]
    place.chmod(0o777)
    assert refused(file) == [place]


@pytest.mark.parametrize("level", [0, 1, 2])
def test_what_a_group_can_write_is_a_warning(file: Path, level: int) -> None:
    place = [file, *file.parents][level]
    place.chmod(0o770)
    (doubt,) = doubts([file])
    assert (doubt.path, doubt.refuses) == (place, False)
    assert "group" in str(doubt)


def test_a_sticky_folder_is_fine_and_a_sticky_file_is_not(file: Path) -> None:
    file.parent.chmod(0o1777)
    assert doubts([file]) == []
    file.chmod(0o1666)
    assert refused(file) == [file]


@root
@pytest.mark.parametrize("level", [0, 1, 2])
def test_a_file_or_folder_of_another_user_is_refused(file: Path, level: int) -> None:
    place = [file, *file.parents][level]
    os.chown(place, STRANGER, 0)
    assert refused(file) == [place]
    assert f"uid {STRANGER}" in str(doubts([file])[0])


@root
def test_a_file_of_another_user_in_a_sticky_folder_is_refused(file: Path) -> None:
    file.parent.chmod(0o1777)
    os.chown(file, STRANGER, 0)
    assert refused(file) == [file]


@root
def test_a_link_of_another_user_is_refused_wherever_it_leads(file: Path, tmp_path: Path) -> None:
    shared = tmp_path / "shared"
    shared.mkdir(mode=0o777)
    shared.chmod(0o1777)
    (shared / "link").symlink_to(file)
    os.chown(shared / "link", STRANGER, 0, follow_symlinks=False)
    assert refused(shared / "link") == [shared / "link"]


def test_what_links_lead_to_and_the_folders_above_it_count(file: Path, tmp_path: Path) -> None:
    """By an absolute and a relative link, of a file and of a folder, one after the other."""
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").symlink_to("../b/folder/policy.yaml")
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "folder").symlink_to(file.parent)
    assert doubts([tmp_path / "a" / "file"]) == []
    for place in (file, file.parent, file.parent.parent, tmp_path / "b"):
        mode = place.stat().st_mode
        place.chmod(0o777)
        assert refused(tmp_path / "a" / "file") == [place]
        place.chmod(mode)


def test_the_folders_above_what_is_not_there_count(file: Path) -> None:
    assert doubts([file.parent / "none" / "file"]) == []
    file.parent.chmod(0o777)
    assert refused(file.parent / "none" / "file") == [file.parent]


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert doubts([tmp_path / "a"]) == []


def test_each_place_is_told_once(file: Path) -> None:
    file.parent.chmod(0o777)
    assert len(doubts([file, file.parent, file.parent / "other"])) == 1


@pytest.mark.parametrize(
    ("mounted", "is_fine"),
    [
        ("/var/lib/kubelet/pods/0a1b/volumes/kubernetes.io~configmap/policy", True),
        ("/lib/kubelet/pods/0a1b/volumes/kubernetes.io~empty-dir/state", True),
        ("/", False),
        ("/home/user/pods/volumes", False),
    ],
)
def test_a_volume_of_kubelets_is_fine(
    file: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, mounted: str, is_fine: bool
) -> None:
    """What proc_pid_mountinfo(5) says where kubelet has mounted the volume."""
    table = tmp_path / "mountinfo"
    table.write_text(
        f"22 1 0:1 / / rw - overlay overlay rw\n70 22 8:1 {mounted} {file.parent} ro - ext4 /dev/a rw\n"
    )
    monkeypatch.setattr(ownership, "MOUNTS", table)
    file.parent.chmod(0o777)
    assert (refused(file) == []) is is_fine
