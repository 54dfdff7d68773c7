"""What an operator names: a file, a pipe, a terminal; neither waited for nor read without an end."""

from __future__ import annotations

import os
import pty
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent import given
from agent.observe.patience import Patience

LICET = Path(sys.executable).parent / "licet"
POLICY = "version: 1\nservices: {db: {product: acme, ports: [{port: 7421, class: internal}]}}\n"
MOST = 1 << 16


@pytest.fixture
def fifo(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(given, "WRITER_WITHIN_S", 0.3)
    os.mkfifo(tmp_path / "fifo")
    return tmp_path / "fifo"


def test_a_file_is_read_as_far_as_is_asked(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"0123456789")
    assert given.read(tmp_path / "a", 20) == b"0123456789"
    assert given.read(tmp_path / "a", 4) == b"0123"


def test_a_fifo_that_nobody_writes_to_is_an_error_soon(fifo: Path) -> None:
    with pytest.raises(TimeoutError, match=r"it is a FIFO, and no process wrote to it for 0.3 s"):
        Patience(20).ask("a FIFO", lambda: given.read(fifo, MOST))


def test_the_writer_of_a_fifo_may_come_later_and_take_his_time(fifo: Path) -> None:
    def write() -> None:
        time.sleep(0.1)  # nothing shows that the reader has found no writer yet
        with fifo.open("wb", buffering=0) as file:
            file.write(b"one ")
            time.sleep(0.35)  # longer than a writer is waited for: nothing happens then
            file.write(b"two")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert given.read(fifo, MOST) == b"one two"
    finally:
        writer.join()


def test_a_pipe_is_read_to_its_end_and_an_empty_one_is_empty() -> None:
    for content in (b"said", b""):
        reader, writer = os.pipe()
        os.write(writer, content)
        os.close(writer)
        try:
            assert given.read(Path(f"/dev/fd/{reader}"), MOST) == content
        finally:
            os.close(reader)


def test_a_terminal_may_be_typed_at() -> None:
    master, slave = pty.openpty()
    try:
        os.write(master, b"typed\n\x04")
        assert given.read(Path(os.ttyname(slave)), MOST) == b"typed\n"
    finally:
        os.close(master)
        os.close(slave)


@pytest.mark.parametrize("path", ["/dev/zero", "/dev/full", "/dev/urandom"])
def test_a_device_is_named_as_one(path: str) -> None:
    with pytest.raises(OSError, match="it is a device, and a file is expected"):
        given.read(Path(path), MOST)


def test_nothing_is_read_of_the_null_device() -> None:
    assert given.read(Path("/dev/null"), MOST) == b""


def test_directories_and_sockets_are_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="it is a directory, and a file is expected"):
        given.read(tmp_path, MOST)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "s"))
        with pytest.raises(OSError, match="it is a socket, and a file is expected"):
            given.read(tmp_path / "s", MOST)


def shell(tmp_path: Path, command: str) -> subprocess.CompletedProcess[str]:
    (tmp_path / "policy.yaml").write_text(POLICY)
    (tmp_path / "config.yaml").write_text(f'paths: {{run: "{tmp_path}", pins: "{tmp_path}/pins"}}')
    (tmp_path / "cases.yaml").write_text(
        "policy: policy.yaml\ncases: [{target: db, consumer: {uid: 9}, expect: denied}]"
    )
    environment = {"PATH": f"{LICET.parent}:/usr/bin:/bin"}
    return subprocess.run(
        ["bash", "-c", command],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=tmp_path,
        env=environment,
    )


@pytest.mark.parametrize(
    "command",
    [
        "licet policy check --elsewhere /dev/stdin < policy.yaml",
        "cat policy.yaml | licet policy check --elsewhere /dev/stdin",
        "licet policy check --elsewhere <(sleep 0.3; cat policy.yaml)",
        "licet policy show <(cat policy.yaml)",
        "licet policy test <(sed s:policy.yaml:$PWD/policy.yaml: cases.yaml)",
        # the policy's place is the configuration's: read twice, a pipe would name no place at all
        'licet policy check --elsewhere --config <(echo "paths: {policy: $PWD/policy.yaml}")',
        'licet policy show --config /dev/stdin <<< "paths: {policy: $PWD/policy.yaml}"',
    ],
)
def test_pipes_go_on_working(tmp_path: Path, command: str) -> None:
    done = shell(tmp_path, command)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout


@pytest.mark.parametrize(
    ("command", "code", "told"),
    [
        ("licet status --config /dev/zero", 2, "/dev/zero: cannot be read: it is a device, and a file"),
        ("licet policy check /dev/zero", 3, "/dev/zero: cannot be read: it is a device, and a file"),
        ("licet policy test /dev/zero", 3, "/dev/zero: cannot be read: it is a device, and a file"),
        ("licet policy show .config", 3, ".config: cannot be read: it is a socket, and a file"),
        ("yes | licet status --config /dev/stdin", 2, "larger than 1 MiB (name the configuration: --config"),
        ("yes | licet policy check /dev/stdin", 3, "larger than 32 MiB (split it into policy.d/*.yaml)"),
        ("licet explain --target db --uid 9 --policy /dev/zero", 3, "/dev/zero: cannot be read: it is"),
        (
            "mkfifo f; licet status --config f",
            2,
            "it is a FIFO, and no process wrote to it for 5 s (start its",
        ),
        ("mkfifo f; licet policy check f", 3, "it is a FIFO, and no process wrote to it for 5 s (start its"),
        ("mkfifo f; licet policy test f", 3, "it is a FIFO, and no process wrote to it for 5 s (start its"),
    ],
)
def test_what_cannot_be_read_is_told_with_what_to_do(
    tmp_path: Path, command: str, code: int, told: str
) -> None:
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / ".config"))
        done = shell(tmp_path, command)
    assert done.returncode == code
    assert told in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
