"""What is compiled is kept for the next load: without bcc's compiler, whole or not at all."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import KernelError
from agent.kernel.compile.compiled import Code, Function
from agent.kernel.loading.program_set import Programs
from agent.kernel.pins import PINNED_MAPS
from agent.kernel.uapi import ProgramType
from agent.system import bpf_map
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import LICET
from tests.kernel.loading import Loading, call_hiding, loading_in


@pytest.fixture
def loading(lab: Lab, tmp_path: Path) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield keeping_in(one, tmp_path / "programs")


def keeping_in(one: Loading, folder: Path) -> Loading:
    paths = one.settings.paths.model_copy(update={"programs": folder})
    return replace(one, settings=one.settings.model_copy(update={"paths": paths}))


def llvm() -> str:
    """The compiler in bcc."""
    ldd = ["ldd", *library("libbcc.so.0")]
    needed = subprocess.run(ldd, capture_output=True, text=True, check=True).stdout
    return next(line.split()[2] for line in needed.splitlines() if "libLLVM" in line)


def library(name: str) -> list[str]:
    listed = subprocess.run(["/sbin/ldconfig", "-p"], capture_output=True, text=True, check=True).stdout
    return [line.split()[-1] for line in listed.splitlines() if line.split()[0] == name][:1]


def load_without_compiler(one: Loading) -> subprocess.CompletedProcess[str]:
    """`licet load` where LLVM is an empty file."""
    return call_hiding(f"mount --bind /dev/null {llvm()}", LICET, "load", "--config", one.config())


def maps_of(one: Loading) -> dict[str, tuple[int, ...]]:
    """What the kernel says of each pinned map, but its id and those of its types."""
    found = {}
    for name in PINNED_MAPS:
        table = one.pins.open_map(name)
        info = bpf_map.map_info(table.fd)
        table.close()
        shape = (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)
        found[name] = (*shape, info.btf_key_type_id, info.btf_value_type_id)
    return found


def test_a_second_load_needs_no_compiler_and_is_the_same(loading: Loading) -> None:
    first = load_without_compiler(loading)
    assert first.returncode == 1
    assert "cannot import bcc: " in first.stderr
    assert "LLVM" in first.stderr
    loading.load()
    compiled = maps_of(loading)
    loading.unload()
    assert load_without_compiler(loading).returncode == 0
    assert maps_of(loading) == compiled
    lab = loading.lab
    lab.serve(lab.host, "10.77.1.1", 7000)
    assert lab.load(lab.host, "10.77.1.1", 7000, connections=20)["ok"] == 20
    assert loading.outbound() == 20


def test_an_upgrade_takes_over_the_maps_of_what_was_compiled(loading: Loading) -> None:
    loading.load()
    before = loading.maps()
    assert load_without_compiler(loading).returncode == 0
    assert loading.maps() == before


@pytest.mark.parametrize("damage", ["truncated", "changed", "empty", "no text"])
def test_what_is_not_whole_is_compiled_again(loading: Loading, damage: str) -> None:
    loading.load()
    folder = loading.settings.paths.programs
    whole = {path: path.read_bytes() for path in folder.iterdir()}
    assert whole
    for path, content in whole.items():
        damaged = {
            "truncated": content[: len(content) // 2],
            "changed": content.replace(b"A", b"B"),
            "empty": b"",
            "no text": b"\xff\xfe" + content,
        }
        path.write_bytes(damaged[damage])
    loading.load()
    assert {path: path.read_bytes() for path in folder.iterdir()} == whole


def test_where_nothing_can_be_kept_it_is_compiled_each_time(loading: Loading) -> None:
    nowhere = keeping_in(loading, Path("/dev/null/programs"))
    nowhere.load()
    assert set(nowhere.maps()) == set(PINNED_MAPS)


def test_nobody_else_can_write_what_is_loaded(loading: Loading) -> None:
    loading.load()
    folder = loading.settings.paths.programs
    assert folder.stat().st_mode & 0o077 == 0
    assert [path.stat().st_mode & 0o077 for path in folder.iterdir()] == [0, 0]


def test_what_the_verifier_says_of_a_refused_program_is_told(capfd: pytest.CaptureFixture[str]) -> None:
    leaves_r0 = bytes([0x95, 0, 0, 0, 0, 0, 0, 0])  # exit
    programs = Programs(Code("", {}, {"broken": Function(leaves_r0, ())}, b""))
    with pytest.raises(KernelError, match="the kernel refused program broken: "):
        programs.load("broken", ProgramType.SOCK_OPS)
    assert "R0 !read_ok" in capfd.readouterr().err
