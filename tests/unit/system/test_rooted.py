"""Paths below another root: no link leads out of it."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from agent.system.rooted import path_in


@pytest.fixture
def root(tmp_path: Path) -> Path:
    root = tmp_path / "root"
    (root / "a/b").mkdir(parents=True)
    (root / "a/b/file").write_text("inside")
    (tmp_path / "file").write_text("outside")
    return root


@pytest.mark.parametrize(
    ("link", "to", "path"),
    [
        ("l", "/a/b", "l/file"),
        ("l", "a/b/file", "l"),
        ("a/l", "b", "a/l/file"),
        ("a/l", "../a/b", "a/l/file"),
        ("a/l", "/../../a/./b//", "/a/l/file"),
        ("l", "../../../../a/b/file", "l"),
        ("l", ".", "l/l/a/b/file"),
        ("l", "/", "l/../../a/b/file"),
    ],
)
def test_links_are_followed_below_the_root(root: Path, link: str, to: str, path: str) -> None:
    (root / link).symlink_to(to)
    assert path_in(root, path) == root / "a/b/file"


def test_two_dots_after_a_link_are_those_of_its_target(root: Path) -> None:
    (root / "l").symlink_to("a/b")
    (root / "a/file").write_text("above b")
    assert path_in(root, "l/../file") == root / "a/file"


@pytest.mark.parametrize("path", ["../file", "/../file", "a/../../file"])
def test_nothing_leads_out(root: Path, path: str) -> None:
    with pytest.raises(FileNotFoundError):
        path_in(root, path)


def test_a_circle_ends(root: Path) -> None:
    (root / "one").symlink_to("two")
    (root / "two").symlink_to("/one")
    with pytest.raises(OSError, match="Too many levels") as raised:
        path_in(root, "one")
    assert raised.value.errno == errno.ELOOP
