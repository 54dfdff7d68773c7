from __future__ import annotations

from pathlib import Path

import pytest

from agent.observe.units import units_at_rest


@pytest.fixture
def mount(tmp_path: Path) -> Path:
    (tmp_path / "cgroup").mkdir()
    return tmp_path / "cgroup"


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    made = (tmp_path / "etc", tmp_path / "usr")
    for folder in made:
        folder.mkdir()
    return made


def cgroup(mount: Path, path: str, *pids: int) -> str:
    (mount / path.lstrip("/")).mkdir(parents=True)
    (mount / path.lstrip("/") / "cgroup.procs").write_text("".join(f"{pid}\n" for pid in pids))
    return path


def why(name: str, cgroups: list[str], mount: Path, folders: tuple[Path, ...]) -> str | None:
    return units_at_rest([name], cgroups, mount, folders).get(name)


def test_a_unit_with_a_process_is_fine(mount: Path, folders: tuple[Path, Path]) -> None:
    there = [cgroup(mount, "/system.slice/a.service"), cgroup(mount, "/system.slice/a.service/worker", 7)]
    assert why("a.service", there, mount, folders) is None


def test_a_cgroup_that_nobody_is_in_selects_nobody(mount: Path, folders: tuple[Path, Path]) -> None:
    there = [cgroup(mount, "/system.slice/a.service")]
    assert why("a.service", there, mount, folders) == "no process is in it"


def test_debians_postgresql_service_ends_at_once_and_the_running_one_is_named(
    mount: Path, folders: tuple[Path, Path]
) -> None:
    (folders[1] / "postgresql.service").write_text(
        "[Unit]\nType=x\n[Service]\nType=oneshot\nExecStart=/bin/true\nRemainAfterExit=on\n"
    )
    slice_ = "/system.slice/system-postgresql.slice"
    there = [
        cgroup(mount, f"{slice_}/postgresql@15-main.service", 9),
        cgroup(mount, "/system.slice/b.service", 8),
    ]
    told = why("postgresql.service", there, mount, folders)
    assert told == (
        "it is Type=oneshot (/bin/true): its command ends, and no process stays in it; "
        "running are 'postgresql@15-main.service'"
    )


def test_another_name_of_a_unit_has_no_cgroup(mount: Path, folders: tuple[Path, Path]) -> None:
    (folders[1] / "ssh.service").write_text("[Service]\nType=notify\n")
    (folders[0] / "sshd.service").symlink_to(folders[1] / "ssh.service")
    told = why("sshd.service", [cgroup(mount, "/system.slice/ssh.service", 3)], mount, folders)
    assert told == "it is an alias of 'ssh.service', which names its cgroup"


def test_a_drop_in_says_what_a_unit_is(mount: Path, folders: tuple[Path, Path]) -> None:
    (folders[1] / "a.service").write_text("[Service]\nType=oneshot\nExecStart=/bin/true\n")
    (folders[0] / "a.service.d").mkdir()
    (folders[0] / "a.service.d" / "own.conf").write_text("[Service]\nType=exec\n")
    assert why("a.service", [], mount, folders) is None


@pytest.mark.parametrize("text", ["[Service]\nType=simple\n", "", "[Service]\n# Type=oneshot\n"])
def test_a_unit_that_does_not_run_is_no_more_than_that(
    mount: Path, folders: tuple[Path, Path], text: str
) -> None:
    (folders[1] / "a.service").write_text(text)
    assert why("a.service", [], mount, folders) is None
    assert why("none.service", [], mount, folders) is None
