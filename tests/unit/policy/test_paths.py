"""Executable globs, and systemd units inside cgroup paths."""

from __future__ import annotations

import pytest

from agent.policy.cgroups import is_unit, unit_of, usual_cgroup
from agent.policy.links import exe_selects
from agent.policy.owners import lineage
from agent.policy.paths import ExeKind, exe_kind, exe_matches, glob_mistake


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


@pytest.mark.parametrize(
    ("pattern", "kind"),
    [
        ("/opt/a", ExeKind.LITERAL),
        ("/opt/*", ExeKind.DIRECTORY),
        ("/*", ExeKind.DIRECTORY),
        ("/opt/a*", ExeKind.OPEN),
        ("/o?t/*", ExeKind.OPEN),
        ("/opt/**", ExeKind.OPEN),
        ("/opt/[ab]", ExeKind.OPEN),
    ],
)
def test_only_a_whole_directory_is_decided_without_the_name(pattern: str, kind: ExeKind) -> None:
    assert exe_kind(pattern) is kind


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
