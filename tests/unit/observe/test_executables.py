from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.observe.executables import find_executables


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """opt/app-2/bin/{run,.hidden,README}, opt/app → app-2, usr/bin/{tool,alias → tool}"""
    for name in (
        "opt/app-2/bin/run",
        "opt/app-2/bin/.hidden",
        "opt/app-2/lib/deep/er/helper",
        "usr/bin/tool",
    ):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("")
        path.chmod(0o755)
    (tmp_path / "opt/app-2/bin/README").write_text("")
    (tmp_path / "opt/app-2/bin/empty").mkdir()
    (tmp_path / "opt/app").symlink_to("app-2")
    (tmp_path / "usr/bin/alias").symlink_to("tool")
    (tmp_path / "usr/bin/dangling").symlink_to("nowhere")
    return tmp_path


def found(tree: Path, pattern: str) -> set[str]:
    paths = find_executables([f"{tree}/{pattern}"]).found
    return {str(Path(path).relative_to(tree)) for path in paths}


def realpaths(tree: Path, pattern: str) -> dict[str, str]:
    pairs = find_executables([f"{tree}/{pattern}"]).realpaths
    return {str(Path(a).relative_to(tree)): str(Path(b).relative_to(tree)) for a, b in pairs.items()}


def test_a_literal_path_is_an_executable_and_ends_where_it_is(tree: Path) -> None:
    assert found(tree, "usr/bin/tool") == {"usr/bin/tool"}
    assert realpaths(tree, "usr/bin/tool") == {}


@pytest.mark.parametrize(
    ("path", "real"), [("usr/bin/alias", "usr/bin/tool"), ("opt/app/bin/run", "opt/app-2/bin/run")]
)
def test_a_path_through_a_link_says_where_it_ends(tree: Path, path: str, real: str) -> None:
    assert found(tree, path) == {real}
    assert realpaths(tree, path) == {path: real}


def test_what_is_not_there_is_left_out(tree: Path) -> None:
    for path in ("usr/bin/absent", "usr/bin/dangling", "no/where/*"):
        assert (found(tree, path), realpaths(tree, path)) == (set(), {})


def test_a_glob_finds_executable_files_only_hidden_ones_too(tree: Path) -> None:
    assert found(tree, "opt/app-2/bin/*") == {"opt/app-2/bin/run", "opt/app-2/bin/.hidden"}


def test_a_star_stops_at_a_slash_and_two_do_not(tree: Path) -> None:
    assert found(tree, "opt/app-2/*") == set()
    assert found(tree, "opt/app-2/*/run") == {"opt/app-2/bin/run"}
    assert found(tree, "opt/app-2/**") == {
        "opt/app-2/bin/run",
        "opt/app-2/bin/.hidden",
        "opt/app-2/lib/deep/er/helper",
    }
    assert found(tree, "opt/**/helper") == {"opt/app-2/lib/deep/er/helper"}


def test_a_glob_through_a_link_finds_real_paths_and_says_where_its_directory_ends(tree: Path) -> None:
    assert found(tree, "opt/app/bin/r*") == {"opt/app-2/bin/run"}
    assert realpaths(tree, "opt/app/bin/r*") == {
        "opt/app/bin": "opt/app-2/bin",
        "opt/app/bin/run": "opt/app-2/bin/run",
    }


def test_a_loop_of_links_ends(tree: Path) -> None:
    (tree / "opt/app-2/loop").symlink_to("../app-2")
    assert "opt/app-2/bin/run" in found(tree, "opt/**")


@pytest.mark.root
@pytest.mark.parametrize("mode", [0o755, 0o777])
def test_a_link_of_a_user_under_a_glob_leads_only_to_what_is_his(tree: Path, mode: int) -> None:
    """Else his ~/bin/tool, which is a link to the interpreter, would give everybody's interpreter a right."""
    home = tree / "home/eve"
    home.mkdir(parents=True)
    for name, end in (("others", tree / "usr/bin/tool"), ("own", home / "real")):
        (home / name).symlink_to(end)
    (home / "real").write_text("")
    (home / "real").chmod(0o755)
    assert found(tree, "home/*/o*") == {"usr/bin/tool", "home/eve/real"}, "of root's"
    for path in (home, home / "real"):
        os.chown(path, 1605, 1605)
    home.chmod(mode)
    own = "home/eve/real" if mode == 0o755 else "home/eve/own"
    for pattern in ("home/*/o*", "home/eve/o*", "home/**"):
        assert {"home/eve/others", own} <= found(tree, pattern) <= {"home/eve/others", own, "home/eve/real"}
        assert "usr/bin/tool" not in realpaths(tree, pattern).values()
    assert found(tree, "home/eve/others") == {"usr/bin/tool"}, "the policy says so itself"
