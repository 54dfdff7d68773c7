"""Mounts over what is watched. inotify(7) reports none, so only the comparison of places finds them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.policy_watch import PolicyWatch
from tests.fixtures.mounts import TMPFS, mounted

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to mount")


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """A policy, a folder with a file, and the same with other contents elsewhere."""
    for where, text in (("etc", "before"), ("other", "after")):
        (tmp_path / where / "policy.d").mkdir(parents=True)
        (tmp_path / where / "policy.yaml").write_text(text)
        (tmp_path / where / "policy.d/a.yaml").write_text(text)
    return tmp_path / "etc"


@pytest.fixture
def watch(etc: Path) -> Iterator[PolicyWatch]:
    with PolicyWatch(etc / "policy.yaml", etc / "policy.d") as made:
        assert not made.is_elsewhere()
        yield made


def follows(watch: PolicyWatch) -> bool:
    """As the daemon does it: compare, then look once."""
    return watch.is_elsewhere() and watch.changed() and not watch.is_elsewhere() and not watch.changed()


PLACES = ["policy.d", "policy.yaml", "policy.d/a.yaml", "."]


@pytest.mark.parametrize("unmount", [(), ("--lazy",)], ids=["unmount", "lazy unmount"])
@pytest.mark.parametrize("place", PLACES)
def test_a_mount_and_its_end_are_found(
    watch: PolicyWatch, etc: Path, place: str, unmount: tuple[str, ...]
) -> None:
    with mounted(etc / place, ("--bind", etc.with_name("other") / place), *unmount):
        assert follows(watch)
    assert follows(watch)


def test_an_empty_file_system_and_what_is_written_there_later(watch: PolicyWatch, etc: Path) -> None:
    with mounted(etc / "policy.d", TMPFS):
        assert follows(watch)
        (etc / "policy.d/b.yaml").write_text("new")
        assert watch.changed()  # and the new place is watched
    assert follows(watch)


def test_another_file_system_with_the_same_files_is_a_change(watch: PolicyWatch, etc: Path) -> None:
    """Files that are deleted there later are deleted, and not gone with a mount."""
    with mounted(etc / "policy.d"):
        (etc / "policy.d/a.yaml").write_text("before")
        assert follows(watch)


def test_a_mount_behind_a_link(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "policy.yaml").symlink_to("data/policy.yaml")
    (tmp_path / "policy.d").symlink_to("data")
    with PolicyWatch(tmp_path / "policy.yaml", tmp_path / "policy.d") as watch:
        with mounted(tmp_path / "data"):
            (tmp_path / "data/policy.yaml").write_text("new")
            assert follows(watch)
        assert follows(watch)


def test_a_directory_above_that_is_renamed(tmp_path: Path) -> None:
    etc = tmp_path / "a/b"
    etc.mkdir(parents=True)
    (etc / "policy.yaml").write_text("x")
    with PolicyWatch(etc / "policy.yaml", etc / "policy.d") as watch:
        (tmp_path / "a").rename(tmp_path / "c")
        assert follows(watch)
        (tmp_path / "c").rename(tmp_path / "a")
        assert follows(watch)


def test_a_renewed_look_that_finds_the_same_is_no_change(watch: PolicyWatch, etc: Path) -> None:
    """A folder that is swapped for one with the same content."""
    (etc / "policy.d").rename(etc / "before")
    (etc / "policy.d").mkdir()
    (etc / "policy.d/a.yaml").write_text("before")
    assert watch.is_elsewhere()
    assert not watch.changed()
    assert not watch.is_elsewhere()
