"""Executable globs, and systemd units inside cgroup paths."""

from __future__ import annotations

import os
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.policy.decision.owners import lineage
from agent.policy.terms.cgroups import is_unit, unit_of, usual_cgroup
from agent.policy.terms.hashing import glob_of, shape_hash
from agent.policy.terms.paths import ExeKind, escape, exe_kind, exe_matches, glob_mistake, starred
from agent.policy.terms.symlinks import exe_selects


@pytest.mark.parametrize(
    ("pattern", "matching", "other"),
    [
        ("/opt/*", ["/opt/a", "/opt/.a"], ["/opt/a/b", "/opt"]),
        ("/opt/*/bin", ["/opt/a/bin"], ["/opt/bin", "/opt/a/b/bin"]),
        ("/opt/**", ["/opt/a", "/opt/a/b"], ["/opt", "/optional/a"]),
        ("/opt/**/bin", ["/opt/bin", "/opt/a/b/bin"], ["/opt/xbin"]),
        ("/usr/bin/p?ql", ["/usr/bin/psql"], ["/usr/bin/p/ql", "/usr/bin/pql"]),
        ("/usr/bin/python[23]", ["/usr/bin/python3"], ["/usr/bin/python4"]),
        ("/usr/bin/python[!23]", ["/usr/bin/python4"], ["/usr/bin/python3"]),
        ("/a[!x]b", ["/a.b"], ["/a/b", "/axb"]),
        ("/usr/bin/[[]", ["/usr/bin/["], ["/usr/bin/x"]),
        ("/a.b", ["/a.b"], ["/axb"]),
    ],
)
def test_globs(pattern: str, matching: list[str], other: list[str]) -> None:
    assert [path for path in matching if exe_matches(pattern, path)] == matching
    assert [path for path in other if exe_matches(pattern, path)] == []
    assert glob_mistake(pattern) == ""


def as_expression(pattern: str) -> re.Pattern[str]:
    """The same glob by another way, which may take for ever."""
    written = {
        "**/": "(?:[^/]+/)*",
        "**": ".+",
        "*": "[^/]*",
        "?": "[^/]",
        "[ab]": "[ab]",
        "[!a]": "(?!/)[^a]",
    }
    tokens = re.findall(r"\*\*/|\*\*|\*|\?|\[ab\]|\[!a\]|.", pattern, re.DOTALL)
    return re.compile("".join(written.get(token, re.escape(token)) for token in tokens), re.DOTALL)


@given(
    st.lists(st.sampled_from(["a", "b", "/", "*", "**", "**/", "?", "[ab]", "[!a]", "-", "\n"]), max_size=8),
    st.text("ab/-\nx", max_size=10),
)
def test_a_glob_takes_what_the_expression_takes(pieces: list[str], path: str) -> None:
    pattern = f"/{''.join(pieces)}"
    assert exe_matches(pattern, f"/{path}") is (as_expression(pattern).fullmatch(f"/{path}") is not None)


@pytest.mark.parametrize(
    ("pattern", "path"),
    [
        ("/opt/*-*-*-*-*-*-*-*-*/run", f"/opt/{'-' * 250}/run/x"),
        ("/**/*a*a*a*a*a*/**/*a*a*/**/run", "/" + f"{'a' * 250}/" * 16),
        ("/" + "**a" * 40, "/" + "a" * 4000 + "/"),
        ("/" + "**/" * 100 + "x", "/" + "y/" * 2000),
    ],
)
def test_a_path_made_for_it_takes_no_longer(pattern: str, path: str) -> None:
    """Not a time: a program that would take for ever never gets here."""
    assert not exe_matches(pattern, path)


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("/opt/a", ExeKind.LITERAL),
        ("/opt/*", ExeKind.DIRECTORY),
        ("/*", ExeKind.DIRECTORY),
        ("/usr/bin/[[]", ExeKind.LITERAL),
        ("/opt/[*]/x", ExeKind.LITERAL),
        ("/opt/a*", ExeKind.STARRED),
        ("/opt/*/bin/x", ExeKind.STARRED),
        ("/opt/app-*-v/bin/x", ExeKind.STARRED),
        ("/*/x", ExeKind.STARRED),
        ("/opt/[*]/*", ExeKind.STARRED),
        ("/opt/x[*]*/y", ExeKind.STARRED),
        ("/opt/a*b*", ExeKind.OPEN),
        ("/opt/*/bin/*", ExeKind.OPEN),
        ("/opt/a?b*", ExeKind.OPEN),
        ("/opt/[!a]/x*", ExeKind.OPEN),
        ("/o?t/*", ExeKind.OPEN),
        ("/opt/**", ExeKind.OPEN),
        ("/opt/x**", ExeKind.OPEN),
        ("/opt/[ab]", ExeKind.OPEN),
        (f"/opt/{'x' * 255}*", ExeKind.STARRED),
        (f"/opt/{'x' * 128}*{'y' * 128}", ExeKind.OPEN),
        ("/opt/\udce2*", ExeKind.OPEN),
    ],
)
def test_what_the_kernel_decides_by_itself_is_told_from_what_takes_the_name(
    pattern: str, kind: ExeKind
) -> None:
    assert exe_kind(pattern) is kind


PIECES = st.sampled_from(["a", "b", ".", "[", "é", "\udcff", "\udce2\udc82", "漢", "\n", " "])
NAMES = st.lists(PIECES, min_size=1, max_size=4).map("".join)


@st.composite
def starred_globs(draw: st.DrawFn) -> str:
    components = [escape(name) for name in draw(st.lists(NAMES, min_size=1, max_size=4))]
    at = draw(st.integers(0, len(components) - 1))
    ends = [escape(draw(st.one_of(st.just(""), NAMES))) for _ in range(2)]
    return "/" + "/".join([*components[:at], "*".join(ends), *components[at + 1 :]])


@given(starred_globs(), st.lists(NAMES, min_size=1, max_size=5), st.integers(0, 2**64 - 1), st.data())
def test_a_glob_with_one_star_has_the_hash_of_all_that_it_matches(
    pattern: str, names: list[str], seed: int, data: st.DataObject
) -> None:
    glob = starred(pattern)
    if glob is None:  # bytes that are no text beside the star
        return
    inside = glob.prefix + data.draw(st.one_of(st.just(""), NAMES)) + glob.suffix
    like_it = [name or inside for name in glob.components]
    for path in ("/" + "/".join(names), "/" + "/".join(like_it)):
        if "//" in path or path.endswith("/"):
            continue
        path = os.fsdecode(os.fsencode(path))  # as the kernel's bytes are read
        shaped = glob_of(path, glob.shape)
        same = shaped is not None and shape_hash(shaped, seed) == shape_hash(glob, seed)
        assert same == exe_matches(pattern, path), path


def test_a_selector_means_what_a_link_leads_to() -> None:
    links = {"/bin": "/usr/bin", "/usr/bin/python3": "/usr/bin/python3.11", "/usr/bin/x": "/opt/["}
    assert exe_selects("/usr/bin/python3", "/usr/bin/python3.11", links)
    assert exe_selects("/bin/*", "/usr/bin/psql", links)
    assert exe_selects("/bin/ps*", "/usr/bin/psql", links)
    assert exe_selects("/usr/bin/x", "/opt/[", links)
    assert not exe_selects("/usr/bin/psql", "/usr/bin/python3.11", links)


@pytest.mark.parametrize(
    ("path", "unit"),
    [
        ("/system.slice/nginx.service", "nginx.service"),
        ("/system.slice/nginx.service/workers/1", "nginx.service"),
        ("/system.slice/docker.service/evil.service", "docker.service"),
        ("/user.slice/user-1.slice/user@1.service/app.slice/x.service", "user@1.service"),
        ("/user.slice", ""),
        ("/", ""),
    ],
)
def test_the_first_unit_of_a_path_is_the_unit(path: str, unit: str) -> None:
    assert unit_of(path) == unit


def test_nothing_below_a_unit_can_claim_to_be_another_unit() -> None:
    assert is_unit("nginx.service", "/system.slice/nginx.service")
    assert not is_unit("nginx.service", "/system.slice/docker.service/nginx.service")
    assert is_unit("batch.slice", "/batch.slice")
    assert not is_unit("batch.slice", "/system.slice/docker.service/batch.slice")
    assert not is_unit("nginx.service", "/system.slice/nginx.service/workers"), "found through its parent"


def test_a_container_cannot_make_itself_a_unit_of_the_host() -> None:
    inside = f"/docker/{'0a' * 32}/system.slice/nginx.service"
    assert unit_of(inside) == ""
    assert not is_unit("nginx.service", inside)


def test_a_unit_named_like_a_kernel_file_is_known_by_its_escaped_cgroup() -> None:
    assert usual_cgroup("cpu.service") == "/system.slice/_cpu.service"
    assert is_unit("cpu.service", "/system.slice/_cpu.service")
    assert unit_of("/system.slice/_cpu.service") == "cpu.service"


@pytest.mark.parametrize(
    ("unit", "path"),
    [
        ("nginx.service", "/system.slice/nginx.service"),
        ("web@1.service", "/system.slice/system-web.slice/web@1.service"),
        ("my-web@1.service", "/system.slice/system-my\\x2dweb.slice/my-web@1.service"),
        ("batch.slice", "/batch.slice"),
        ("batch-night.slice", "/batch.slice/batch-night.slice"),
    ],
)
def test_where_systemd_puts_a_unit(unit: str, path: str) -> None:
    assert usual_cgroup(unit) == path


def test_a_cgroup_has_every_ancestor_but_the_root() -> None:
    assert list(lineage("/a/b/c")) == ["/a/b/c", "/a/b", "/a"]
    assert list(lineage("/")) == []
