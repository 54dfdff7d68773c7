from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from agent.observe import scripts
from agent.observe.executables import FILES_READ, find_executables
from agent.observe.scripts import script_at

SH = os.path.realpath("/bin/sh")
ELF = os.path.realpath(shutil.which("sleep") or "/bin/sleep")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "bin").mkdir()
    return tmp_path / "bin"


def program(path: Path, text: str | bytes) -> Path:
    path.write_bytes(text.encode() if isinstance(text, str) else text)
    path.chmod(0o755)
    return path


@pytest.mark.parametrize(
    ("first_line", "interpreter"),
    [
        ("#!/bin/sh", SH),
        ("#! /bin/sh -e", SH),
        ("#!\t/bin/sh\t-e", SH),
        ("#!/usr/bin/env sh", SH),
        ("#!/usr/bin/env -S LANG=C sh -e", SH),
        ("#!/opt/gone/python3", "/opt/gone/python3"),
    ],
)
def test_a_script_runs_as_its_interpreter(folder: Path, first_line: str, interpreter: str) -> None:
    path = program(folder / "x", f"{first_line}\necho\n")
    found = script_at(str(path))
    assert found is not None
    assert (found.path, found.interpreter, found.starts) == (str(path), interpreter, ())


@pytest.mark.parametrize("text", [b"\x7fELF\2\1", b"", b"#", b"echo\n#!/bin/sh\n", b"#!\n", b"\0#!/bin/sh"])
def test_other_files_are_no_scripts(folder: Path, text: bytes) -> None:
    assert script_at(str(program(folder / "x", text))) is None


def test_what_cannot_be_read_is_no_script(folder: Path) -> None:
    os.mkfifo(folder / "fifo")
    assert script_at(str(folder / "fifo")) is None
    assert script_at(str(folder)) is None
    assert script_at(str(folder / "none")) is None


def test_an_interpreter_that_is_a_script_is_not_what_runs(folder: Path) -> None:
    inner = program(folder / "inner", "#!/bin/sh\n")
    path = program(folder / "x", f"#!{inner}\n")
    found = script_at(str(path))
    assert found is not None
    assert found.interpreter == SH


@pytest.mark.parametrize(
    ("line", "starts"),
    [
        (f'exec {ELF} "$@"', (ELF,)),
        (f'  exec -a name "{ELF}" "$@"', (ELF,)),
        (f"# exec {ELF}", ()),
        ("exec /opt/gone/bin/x", ()),
        ('exec "$HERE/x"', ()),
        (f"{ELF} 1", ()),
    ],
)
def test_a_shell_script_says_what_it_runs_in_its_own_place(
    folder: Path, line: str, starts: tuple[str, ...]
) -> None:
    found = script_at(str(program(folder / "x", f"#!/bin/sh\nset -e\n{line}\n")))
    assert found is not None
    assert found.starts == starts


def test_behind_debians_wrapper_stand_the_servers_versions(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for version in ("15", "17"):
        (folder / version / "bin").mkdir(parents=True)
        program(folder / version / "bin" / "psql", b"\x7fELF")
    monkeypatch.setattr(scripts, "_POSTGRESQL", f"{folder}/*/bin")
    wrapper = program(folder / "pg_wrapper", "#!/usr/bin/perl -w\n")
    (folder / "psql").symlink_to(wrapper)
    found = script_at(str(folder / "psql"))
    assert found is not None
    assert found.starts == tuple(f"{folder}/{version}/bin/psql" for version in ("15", "17"))


def test_a_selector_is_noted_where_it_finds_nothing_but_scripts(folder: Path) -> None:
    program(folder / "a.sh", "#!/bin/sh\n")
    program(folder / "b.sh", "#!/bin/sh\n")
    program(folder / "c.bin", b"\x7fELF")
    patterns = [f"{folder}/a.sh", f"{folder}/*.sh", f"{folder}/*", f"{folder}/c.bin", f"{folder}/none"]
    assert set(find_executables(patterns).scripts) == {f"{folder}/a.sh", f"{folder}/*.sh"}


def test_a_glob_that_finds_a_whole_tree_is_not_read(folder: Path) -> None:
    for number in range(FILES_READ + 1):
        program(folder / f"{number}.sh", "#!/bin/sh\n")
    assert find_executables([f"{folder}/*.sh"]).scripts == {}
