from __future__ import annotations

import os
import select
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.observe.policy_watch import PolicyWatch

DEADLINE_S = 5.0


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    (tmp_path / "etc" / "policy.d").mkdir(parents=True)
    (tmp_path / "etc" / "policy.yaml").write_text("version: 1\n")
    return tmp_path / "etc"


@pytest.fixture
def watch(etc: Path) -> Iterator[PolicyWatch]:
    with PolicyWatch(etc / "policy.yaml", etc / "policy.d") as made:
        yield made


def wakes(watch: PolicyWatch, timeout_s: float = DEADLINE_S) -> bool:
    return bool(select.select([watch.fileno()], [], [], timeout_s)[0])


def tells(watch: PolicyWatch) -> bool:
    """As the daemon does it: sleep until woken, then ask."""
    return wakes(watch) and watch.changed()


def test_nothing_changed_at_first(watch: PolicyWatch) -> None:
    assert not watch.changed()
    assert not wakes(watch, 0)


def test_a_file_written_in_place(watch: PolicyWatch, etc: Path) -> None:
    (etc / "policy.yaml").write_text("version: 1\n# more\n")
    assert tells(watch)
    assert not watch.changed()
    assert not wakes(watch, 0)


def test_a_file_renamed_over(watch: PolicyWatch, etc: Path) -> None:
    for text in ("one", "two"):
        (etc / ".policy.yaml.swp").write_text(text)
        (etc / ".policy.yaml.swp").rename(etc / "policy.yaml")
        assert tells(watch)


def test_two_writes_of_one_length_in_one_clock_tick(watch: PolicyWatch, etc: Path) -> None:
    for text in ("aaaa", "bbbb", "cccc"):
        (etc / "policy.yaml").write_text(text)
        os.utime(etc / "policy.yaml", ns=(0, 0))
        assert tells(watch)


def test_files_that_come_and_go_in_the_directory(watch: PolicyWatch, etc: Path) -> None:
    (etc / "policy.d" / "10-web.yaml").write_text("a")
    assert tells(watch)
    (etc / "policy.d" / "10-web.yaml").rename(etc / "policy.d" / "20-web.yaml")
    assert tells(watch)
    (etc / "policy.d" / "20-web.yaml").unlink()
    assert tells(watch)


def test_other_files_are_no_change(watch: PolicyWatch, etc: Path) -> None:
    (etc / "config.yaml").write_text("x")
    (etc / "policy.d" / "README").write_text("x")
    (etc / "policy.d" / ".draft.yaml").write_text("x")
    (etc / "policy.yaml").touch()
    assert wakes(watch)
    assert not watch.changed()


def test_a_config_map_that_swaps_its_link(tmp_path: Path) -> None:
    mount = tmp_path / "mount"
    (mount / "..2024_1").mkdir(parents=True)
    (mount / "..2024_1" / "policy.yaml").write_text("one")
    (mount / "..data").symlink_to("..2024_1")
    (mount / "policy.yaml").symlink_to("..data/policy.yaml")
    with PolicyWatch(mount / "policy.yaml", tmp_path / "policy.d") as watch:
        for number, text in ((2, "two"), (3, "three")):
            (mount / f"..2024_{number}").mkdir()
            (mount / f"..2024_{number}" / "policy.yaml").write_text(text)
            (mount / "..data_tmp").symlink_to(f"..2024_{number}")
            (mount / "..data_tmp").rename(mount / "..data")
            shutil.rmtree(mount / f"..2024_{number - 1}")
            assert tells(watch)


@pytest.mark.parametrize("link", ["policy.yaml", "policy.d/a.yaml"])
def test_a_file_that_a_link_leads_to_elsewhere(tmp_path: Path, etc: Path, link: str) -> None:
    real = tmp_path / "elsewhere" / "real.yaml"
    real.parent.mkdir()
    real.write_text("one")
    (etc / link).unlink(missing_ok=True)
    (etc / link).symlink_to(real)
    with PolicyWatch(etc / "policy.yaml", etc / "policy.d") as watch:
        real.write_text("two")
        assert tells(watch)


@pytest.mark.parametrize("vanish", ["remove", "rename"])
def test_directories_that_vanish_and_come_back(watch: PolicyWatch, etc: Path, vanish: str) -> None:
    for text in ("first", "second"):
        if vanish == "remove":
            shutil.rmtree(etc)
        else:
            etc.rename(etc.with_name(f"etc-before-{text}"))
        assert tells(watch)
        (etc / "policy.d").mkdir(parents=True)
        while not (etc / "policy.d" / "x.yaml").exists():
            assert wakes(watch)
            watch.changed()
            (etc / "policy.d" / "x.yaml").write_text(text)
        assert tells(watch)


def test_a_policy_whose_directories_are_made_later(tmp_path: Path) -> None:
    place = tmp_path / "a" / "b" / "c"
    with PolicyWatch(place / "policy.yaml", place / "policy.d") as watch:
        assert not watch.changed()
        (place / "policy.d").mkdir(parents=True)
        (place / "policy.yaml").write_text("one")
        assert tells(watch)
        (place / "policy.d" / "x.yaml").write_text("two")
        assert tells(watch)


def test_a_file_that_becomes_readable(etc: Path) -> None:
    (etc / "policy.yaml").unlink()
    (etc / "policy.yaml").mkdir()
    with PolicyWatch(etc / "policy.yaml", etc / "policy.d") as watch:
        (etc / "policy.yaml").rmdir()
        (etc / "policy.yaml").write_text("one")
        assert tells(watch)


def test_watches_do_not_pile_up(watch: PolicyWatch, etc: Path) -> None:
    for round_ in range(30):
        shutil.rmtree(etc / "policy.d")
        (etc / "policy.d").mkdir()
        (etc / "policy.d" / "x.yaml").write_text(str(round_))
        watch.changed()
    lines = Path(f"/proc/self/fdinfo/{watch.fileno()}").read_text().splitlines()
    assert sum(line.startswith("inotify wd") for line in lines) <= 5


NO_INOTIFY = """
import os, sys
from pathlib import Path
from agent.observe.policy_watch import PolicyWatch

limits, etc = Path("/proc/sys/user"), Path(sys.argv[1])
limit, before = limits / sys.argv[2], (limits / sys.argv[2]).read_text()
limit.write_text("0")
watch = PolicyWatch(etc / "policy.yaml", etc / "policy.d")
assert "sysctl" in watch.problem, watch.problem
assert (watch.fileno() is None) == (sys.argv[2] == "max_inotify_instances")
assert not watch.changed()
(etc / "policy.d" / "more.yml").write_text("version: 1")
assert watch.changed() and not watch.changed()
assert watch.problem
limit.write_text(before)
assert not watch.changed()
assert not watch.problem, watch.problem
assert watch.fileno() is not None
(etc / "policy.yaml").write_text("version: 2")
limit.write_text("0")
assert watch.changed()
(etc / "policy.d").rename(etc / "elsewhere")
(etc / "policy.d").mkdir()
assert watch.changed()
assert (not watch.problem) == (sys.argv[2] == "max_inotify_instances")
"""


@pytest.mark.parametrize("limit", ["max_inotify_instances", "max_inotify_watches"])
def test_where_the_kernel_gives_no_inotify_changes_are_seen_when_asked_for(etc: Path, limit: str) -> None:
    """In a user namespace, which has limits of its own."""
    argv = ["unshare", "--user", "--map-root-user", sys.executable, "-c", NO_INOTIFY, etc, limit]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if "unshare failed" in done.stderr:
        pytest.skip("no user namespaces here")
    assert done.returncode == 0, done.stderr


def test_who_can_write_is_a_change_too(watch: PolicyWatch, etc: Path) -> None:
    (etc / "policy.d").chmod(0o777)
    assert tells(watch)
    (etc / "policy.d").chmod(0o755)
    assert tells(watch)


def test_a_fifo_is_not_waited_for(watch: PolicyWatch, etc: Path) -> None:
    os.mkfifo(etc / "policy.d" / "fifo.yaml")
    assert tells(watch)


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    folder = tmp_path / "licenses"
    folder.mkdir()
    huge = folder / "a.json"
    huge.touch()
    with PolicyWatch(tmp_path / "policy.yaml", folder) as watch:
        os.truncate(huge, 1 << 42)
        assert watch.changed()
        assert not watch.changed()
        with huge.open("r+b") as file:
            file.seek(1 << 41)
            file.write(b"x")
        assert watch.changed()
