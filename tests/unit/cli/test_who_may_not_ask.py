"""What a user is told who may not open the control socket: whether a daemon runs, and what needs root."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.daemon.startup.locks import RunLock

LICET = Path(sys.executable).parent / "licet"
NOBODY = 65534
pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="becomes another user")


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    """With a socket that only root may open; nobody listens."""
    for above in (tmp_path, tmp_path.parent, tmp_path.parent.parent, tmp_path.parent.parent.parent):
        if above != Path("/tmp"):
            above.chmod(0o755)
    (tmp_path / "pins").mkdir(mode=0o700)
    (tmp_path / "config.yaml").write_text(
        json.dumps({"paths": {"run": str(tmp_path), "pins": str(tmp_path / "pins")}})
    )
    with closing(socket.socket(socket.AF_UNIX)) as bound:
        bound.bind(str(tmp_path / "control.sock"))
        (tmp_path / "control.sock").chmod(0o660)
        yield tmp_path


def said(folder: Path, *words: str) -> list[str]:
    done = subprocess.run(
        [LICET, *words, "--config", folder / "config.yaml"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        user=NOBODY,
        group=NOBODY,
        extra_groups=[],
    )
    assert done.returncode == 1
    return done.stderr.splitlines()


@pytest.mark.parametrize("command", ["status", "mode", "events", "flows"])
def test_a_daemon_that_is_dead_is_told_as_dead(folder: Path, command: str) -> None:
    RunLock(folder).release()
    dead, kernel, remedy = said(folder, command)
    assert dead == f"licet: no daemon answers at {folder}/control.sock (none runs there)"
    assert "only root can read" in kernel
    assert "sudo licet status" in kernel
    assert remedy.startswith("licet: as root, start it")


def test_one_that_runs_is_told_to_run(folder: Path) -> None:
    lock = RunLock(folder)
    try:
        (line,) = said(folder, "status")
    finally:
        lock.release()
    assert "only root and the group licet may connect" in line
    assert "no daemon" not in line


def test_where_it_is_not_to_be_found_out_nothing_is_claimed(folder: Path) -> None:
    RunLock(folder).release()
    (folder / "run").mkdir(mode=0o700)
    (folder / "config.yaml").write_text(json.dumps({"paths": {"run": str(folder / "run")}}))
    (line,) = said(folder, "status")
    assert "only root and the group licet may connect" in line
