"""Files that are made once: whole or not at all, never over another one."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from agent.system import files


def without_tmpfile(path: Path, content: bytes, mode: int) -> None:
    """As on a file system that has no files without a name, such as FAT."""
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        files._written(folder, path.name, content, mode)
    finally:
        os.close(folder)


Write = Callable[[Path, bytes, int], None]
WAYS: list[Write] = [files.write_new, without_tmpfile]


@pytest.mark.parametrize("write", WAYS)
@pytest.mark.parametrize("mode", [0o600, 0o644])
def test_the_mode_is_as_asked_whatever_the_umask(tmp_path: Path, write: Write, mode: int) -> None:
    before = os.umask(0o027 if mode == 0o644 else 0)
    try:
        write(tmp_path / "one", b"content", mode)
    finally:
        os.umask(before)
    assert (tmp_path / "one").read_bytes() == b"content"
    assert (tmp_path / "one").stat().st_mode & 0o777 == mode


@pytest.mark.parametrize("write", WAYS)
def test_nothing_that_is_there_is_replaced(tmp_path: Path, write: Write) -> None:
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "link").symlink_to("nowhere")
    (tmp_path / "folder").mkdir()
    for name in ("file", "link", "folder"):
        with pytest.raises(FileExistsError):
            write(tmp_path / name, b"after", 0o600)
    assert (tmp_path / "file").read_bytes() == b"before"
    assert sorted(os.listdir(tmp_path)) == ["file", "folder", "link"]


@pytest.mark.parametrize("way", ["write_new", "without_tmpfile"])
def test_a_disk_that_takes_only_a_part_keeps_none(tmp_path: Path, way: str) -> None:
    text = f"""
import resource
from pathlib import Path
from agent.system import files
from tests.unit.system.test_files import without_tmpfile
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, 1000))
write = {"files.write_new" if way == "write_new" else way}
try:
    write(Path({str(tmp_path / "one")!r}), bytes(100_000), 0o600)
except OSError as error:
    print(error.strerror)
"""
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert done.stdout == "File too large\n"
    assert os.listdir(tmp_path) == []


def test_of_several_writers_one_wins_with_a_whole_file(tmp_path: Path) -> None:
    refused: list[int] = []

    def write(number: int) -> None:
        try:
            files.write_new(tmp_path / "one", bytes([number]) * 100_000, 0o600)
        except FileExistsError:
            refused.append(number)

    writers = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for one in writers:
        one.start()
    for one in writers:
        one.join()
    (winner,) = set(range(4)) - set(refused)
    assert (tmp_path / "one").read_bytes() == bytes([winner]) * 100_000
    assert os.listdir(tmp_path) == ["one"]
