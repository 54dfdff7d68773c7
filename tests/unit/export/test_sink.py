import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.export.sink import DescriptorSink, FileSink, NoSink, open_sink

PIPE_BYTES = 4096


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    """(read end, write end) with room for one page."""
    ends = os.pipe()
    fcntl.fcntl(ends[1], fcntl.F_SETPIPE_SZ, PIPE_BYTES)
    yield ends
    for end in ends:
        try:
            os.close(end)
        except OSError as error:
            if error.errno != errno.EBADF:
                raise


def test_a_reader_that_stalls_costs_lines_and_no_wait(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = DescriptorSink(write)
    sink.write("x" * (PIPE_BYTES - 1))
    with pytest.raises(BlockingIOError):
        sink.write("no room")
    assert os.read(read, 65536) == b"x" * (PIPE_BYTES - 1) + b"\n"
    sink.write("after the stall")
    assert os.read(read, 65536) == b"after the stall\n"


def test_a_line_longer_than_the_pipe_is_never_seen_in_halves(pipe: tuple[int, int]) -> None:
    read, write = pipe
    sink = DescriptorSink(write)
    long = "a" * (3 * PIPE_BYTES)
    sink.write(long)  # begun: the first page is in the pipe
    seen = os.read(read, PIPE_BYTES)
    with pytest.raises(BlockingIOError):
        sink.write("lost: the line before it is not through yet")
    for _ in range(4):
        seen += os.read(read, PIPE_BYTES)
        try:
            sink.write("next")
            break
        except BlockingIOError:
            continue
    seen += os.read(read, PIPE_BYTES)
    assert seen.decode().splitlines() == [long, "next"]


def test_a_closed_pipe_is_an_error_each_time(pipe: tuple[int, int]) -> None:
    read, write = pipe
    os.close(read)
    sink = DescriptorSink(write)
    for _ in range(2):
        with pytest.raises(BrokenPipeError):
            sink.write("nobody reads")


def test_a_full_disk_is_an_error_and_not_the_end() -> None:
    sink = FileSink("/dev/full")
    for _ in range(2):
        with pytest.raises(OSError, match="No space left"):
            sink.write("line")
        sink.reopen()


def test_a_file_that_logrotate_renamed_is_opened_again(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(str(path))
    sink.write("one")
    path.rename(tmp_path / "events.jsonl.1")
    sink.write("two")
    assert path.read_text() == "two\n"
    assert (tmp_path / "events.jsonl.1").read_text() == "one\n"
    assert path.stat().st_mode & 0o777 & ~0o640 == 0


def test_a_truncated_file_is_appended_to_from_its_start(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    sink = FileSink(str(path))
    sink.write("one")
    os.truncate(path, 0)
    sink.write("two")
    assert path.read_text() == "two\n"


def test_a_directory_that_comes_back_is_written_to_again(tmp_path: Path) -> None:
    path = tmp_path / "later" / "events.jsonl"
    sink = FileSink(str(path))
    with pytest.raises(FileNotFoundError):
        sink.write("one")
    path.parent.mkdir()
    sink.write("two")
    assert path.read_text() == "two\n"


def test_a_fifo_nobody_reads_is_an_error_and_not_a_wait(tmp_path: Path) -> None:
    path = tmp_path / "fifo"
    os.mkfifo(path)
    with pytest.raises(OSError, match="No such device or address"):
        FileSink(str(path)).write("line")


def test_the_configuration_names_the_sink(tmp_path: Path) -> None:
    assert isinstance(open_sink("none"), NoSink)
    assert isinstance(open_sink("stdout"), DescriptorSink)
    assert isinstance(open_sink(str(tmp_path / "file")), FileSink)
