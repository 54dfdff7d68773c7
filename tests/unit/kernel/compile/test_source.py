from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

from agent.kernel.compile.source import (
    DATAGRAMS,
    GATES,
    HEADERS,
    PROGRAMS,
    bpf_folder,
    fields_read,
    joined,
    source_hash,
)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in (*HEADERS, *PROGRAMS):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"/* the text of {name} */\n")
    return tmp_path


def test_what_is_shared_comes_before_what_uses_it(folder: Path) -> None:
    source = joined(folder)
    places = [source.index(f"the text of {name}") for name in (*HEADERS, *PROGRAMS)]
    assert places == sorted(places)
    assert HEADERS[:2] == ("abi.h", "maps.h")


def test_the_compiler_is_told_which_line_of_which_file_it_reads(folder: Path) -> None:
    lines = joined(folder).splitlines()
    for name in (*HEADERS, *PROGRAMS):
        assert lines[lines.index(f'#line 1 "bpf/{name}"') + 1] == f"/* the text of {name} */"


def test_every_program_file_of_the_folder_is_joined() -> None:
    found = (path.relative_to(bpf_folder()) for path in bpf_folder().rglob("*.[ch]"))
    there = {str(path) for path in found if path.parts[0] != "include"}
    assert there == {*HEADERS, *PROGRAMS, *GATES, *DATAGRAMS}


def test_a_field_is_named_once_however_often_it_is_read() -> None:
    source = "read(OFF_task_struct__cred); read(OFF_cred__euid); again(OFF_task_struct__cred); OFFSET_x"
    assert fields_read(source) == [("cred", "euid"), ("task_struct", "cred")]


def test_a_field_whose_own_name_has_two_underscores_is_split_at_the_first() -> None:
    assert fields_read("OFF_sock__sk__x") == [("sock", "sk__x")]


def test_the_programs_read_kernel_structs_only_by_offsets() -> None:
    found = fields_read(joined(bpf_folder()))
    assert ("inode", "i_ino") in found or ("task_struct", "cred") in found
    assert all(struct and field for struct, field in found)


def test_source_and_flags_both_make_the_hash(folder: Path) -> None:
    assert source_hash("a", ["auto"], folder) == source_hash("a", ["auto"], folder)
    different = {
        source_hash("a", ["auto"], folder),
        source_hash("b", ["auto"], folder),
        source_hash("a", ["always"], folder),
    }
    assert len(different) == 3
    assert source_hash("ab", [], folder) != source_hash("a", ["b"], folder)


def test_a_header_that_changes_or_moves_makes_another_hash(folder: Path) -> None:
    seen = [source_hash("a", [], folder)]
    header = folder / "include" / "linux" / "types.h"
    header.parent.mkdir(parents=True)
    header.write_text("typedef int s32;\n")
    seen.append(source_hash("a", [], folder))
    header.write_text("typedef long s32;\n")
    seen.append(source_hash("a", [], folder))
    header.rename(folder / "include" / "types.h")
    seen.append(source_hash("a", [], folder))
    assert len(set(seen)) == len(seen)


@pytest.mark.parametrize("hook", sorted(path.name for path in (bpf_folder() / "hooks").iterdir()))
def test_an_editor_understands_each_hook(hook: str) -> None:
    """By the flags of bpf/.clangd; what the loader defines is given here."""
    folder = bpf_folder()
    text = (folder / "hooks" / hook).read_text()
    loaded = [f"-D{name}=0" for name in _loaded_names(folder)]
    flags = ["-xc", "-std=gnu11", "-I.", "-Iinclude", "-include", "editor.h"]
    flags += ["-DEDITOR_HOOK", "-DATTACH_TYPE=BPF_CGROUP_INET4_CONNECT", "-DACCEPTOR"]
    done = subprocess.run(
        ["cc", "-fsyntax-only", "-w", *flags, *loaded, "-"],
        input=text,
        cwd=folder,
        text=True,
        capture_output=True,
        check=False,
    )
    assert done.stderr == ""


def _loaded_names(folder: Path) -> set[str]:
    texts = (path.read_text() for path in folder.rglob("*.[ch]"))
    return {name for text in texts for name in re.findall(r"\b(?:OFF|BIT)_\w+__\w+", text)}
