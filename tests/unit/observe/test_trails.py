"""Links that are switched are noticed, and nothing else is."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.observe.executables import find_executables
from agent.observe.trails import TrailWatch


class Clock:
    now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def program(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("")
    path.chmod(0o755)


def lead(link: Path, target: str) -> None:
    """In one step, as those do that switch releases."""
    fresh = link.with_name(".new")
    fresh.symlink_to(target)
    fresh.rename(link)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """srv/releases/{1,2}/bin/server, srv/current → releases/1, etc/alternatives/java → opt/jdk-1/bin/java"""
    for name in ("srv/releases/1", "srv/releases/2", "opt/jdk-1", "opt/jdk-2"):
        program(tmp_path / name / "bin/server")
    (tmp_path / "srv/current").symlink_to("releases/1")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/server").symlink_to(tmp_path / "opt/jdk-1/bin/server")
    (tmp_path / "usr").mkdir()
    (tmp_path / "usr/server").symlink_to(tmp_path / "etc/server")
    return tmp_path


def switch_release(tree: Path) -> None:
    lead(tree / "srv/current", "releases/2")


def switch_alternative(tree: Path) -> None:
    lead(tree / "etc/server", str(tree / "opt/jdk-2/bin/server"))


def add_link_to_an_entry(tree: Path) -> None:
    (tree / "opt/jdk-3").mkdir()
    (tree / "opt/jdk-3/bin").symlink_to("../jdk-2/bin")


def fill_an_entry(tree: Path) -> None:
    (tree / "opt/empty/bin").symlink_to("../jdk-2/bin")


def replace_a_directory_by_a_link(tree: Path) -> None:
    (tree / "opt/jdk-1/bin").rename(tree / "elsewhere")
    (tree / "opt/jdk-1/bin").symlink_to(tree / "elsewhere")


@pytest.mark.parametrize(
    ("pattern", "change"),
    [
        ("srv/current/bin/server", switch_release),
        ("srv/current/bin/*", switch_release),
        ("srv/*/bin/server", switch_release),
        ("usr/server", switch_alternative),
        ("usr/*", switch_alternative),
        ("opt/*/bin/server", add_link_to_an_entry),
        ("opt/*/bin/server", fill_an_entry),
        ("opt/*/bin/*", fill_an_entry),
        ("opt/*/bin/server", replace_a_directory_by_a_link),
        ("opt/**/server", add_link_to_an_entry),
        ("none/yet/*", lambda tree: program(tree / "none/yet/server")),
        ("none/yet", lambda tree: (tree / "none").symlink_to("opt")),
    ],
)
def test_a_selector_that_leads_elsewhere_is_noticed(
    tree: Path, pattern: str, change: Callable[[Path], None]
) -> None:
    (tree / "opt/empty").mkdir()
    if pattern == "none/yet":
        program(tree / "opt/yet")
    watch = TrailWatch(Clock(), Clock())
    trails = find_executables([f"{tree}/{pattern}"]).trails
    for path in (tree / "opt", tree / "srv", tree / "usr"):
        os.utime(path, ns=(0, path.stat().st_mtime_ns))  # reading changes nothing
    assert not watch.switched(trails)
    change(tree)
    assert watch.switched(trails)
    assert not watch.switched(find_executables([f"{tree}/{pattern}"]).trails)


def test_a_program_that_is_installed_anew_at_its_place_is_no_switch(tree: Path) -> None:
    path = tree / "srv/releases/1/bin/server"
    trails = find_executables([str(tree / "srv/current/bin/server"), str(path)]).trails
    path.unlink()
    program(path)
    assert not TrailWatch(Clock(), Clock()).switched(trails)


def test_whoever_switches_without_end_does_not_hide_another_switch(tree: Path) -> None:
    clock = Clock()
    watch = TrailWatch(clock, Clock())
    restless, calm = str(tree / "usr/server"), str(tree / "srv/current/bin/server")
    noticed = 0
    for each in range(30):
        clock.now_s += 1.0
        trails = find_executables([restless, calm]).trails
        lead(tree / "etc/server", str(tree / f"opt/jdk-{each % 2 + 1}/bin/server"))
        noticed += watch.switched(trails)
    assert noticed == 5
    trails = find_executables([restless, calm]).trails
    switch_release(tree)
    clock.now_s += 1.0
    assert watch.switched(trails)


@pytest.mark.parametrize("is_long", [True, False])
def test_a_look_that_costs_much_is_followed_by_a_rest(tree: Path, is_long: bool) -> None:
    """One that is long because others have the processor is not."""
    clock, spent = Clock(), Clock()

    class Spending(Clock):
        def __call__(self) -> float:
            clock.now_s += 0.05
            spent.now_s += 0.05 if is_long else 0.0
            return spent.now_s

    watch = TrailWatch(clock, Spending())
    trails = find_executables([str(tree / "srv/current/bin/server")]).trails
    assert not watch.switched(trails)
    switch_release(tree)
    assert watch.switched(trails) is not is_long
    if is_long:
        clock.now_s += 5.0
        assert watch.switched(trails)
