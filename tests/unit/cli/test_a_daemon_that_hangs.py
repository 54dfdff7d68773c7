"""Commands that ask a daemon which accepts connections and answers none."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from typer.testing import CliRunner

from agent.cli import alone
from agent.cli.app import app
from agent.daemon.startup.locks import flock_holder
from tests.fixtures.waiting import wait_for

COMMANDS = (
    "status",
    "mode",
    "mode enforce --yes",
    "mode --reset",
    "events",
    "events --follow",
    "flows",
    "flows --target db",
    "listeners",
)


@pytest.fixture
def config(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "config.yaml"
    path.write_text(json.dumps({"paths": {"run": str(tmp_path), "pins": str(tmp_path / "pins")}}))
    with closing(socket.socket(socket.AF_UNIX)) as hung:
        hung.bind(str(tmp_path / "control.sock"))
        hung.listen()
        yield path


@pytest.mark.parametrize("words", COMMANDS)
def test_it_is_reported_soon_with_what_the_kernel_does(
    config: Path, monkeypatch: pytest.MonkeyPatch, words: str
) -> None:
    monkeypatch.setattr(alone, "ANSWER_WITHIN_S", 0.2)
    ended = CliRunner().invoke(app, [*words.split(), "--config", str(config)])
    assert ended.exit_code == 1
    assert ended.stdout == ""
    hangs, kernel, _remedy = ended.stderr.splitlines()
    assert "did not answer within 0.2 s" in hangs
    assert "the kernel" in kernel


@pytest.mark.parametrize("words", ["status", "mode"])
def test_what_lies_among_the_state_files_holds_nobody_up(tmp_path: Path, words: str) -> None:
    config = tmp_path / "config.yaml"
    places = {"run": tmp_path, "pins": tmp_path / "pins", "state": tmp_path}
    config.write_text(json.dumps({"paths": {name: str(place) for name, place in places.items()}}))
    os.mkfifo(tmp_path / "ids.json")
    ended = CliRunner().invoke(app, [words, "--config", str(config)])
    assert ended.exit_code == 1
    assert ended.stderr.startswith("licet: no daemon answers at ")


def test_one_that_was_stopped_is_told_to_go_on(tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    config.write_text(json.dumps({"paths": {"run": str(tmp_path), "pins": str(tmp_path / "pins")}}))
    holder = subprocess.Popen(["flock", "--no-fork", tmp_path / "licet.lock", "sleep", "60"])
    try:
        wait_for((tmp_path / "licet.lock").exists, "the lock is there")
        wait_for(lambda: flock_holder(os.stat(tmp_path / "licet.lock").st_ino), "it is held")
        holder.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, holder.pid, os.WSTOPPED)
        ended = CliRunner().invoke(app, ["status", "--config", str(config)])
    finally:
        holder.kill()
        holder.wait()
    assert f"`kill -CONT {holder.pid}` resumes it" in ended.stderr
