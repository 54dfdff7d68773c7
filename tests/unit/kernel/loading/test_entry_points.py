"""Modules that are started by their names, from a tree as a package installs it: agent/ beside bpf/."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from agent.kernel.loading.supervisor import GATES_LOADER, OBSERVERS_LOADER
from agent.kernel.upgrade.staging import STAGE
from tests.fixtures.lab import ROOT

OF_0_1_0 = ("agent.kernel.loader", "agent.kernel.gate_loader")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tree = tmp_path_factory.mktemp("installed")
    for folder in ("agent", "bpf"):
        shutil.copytree(ROOT / folder, tree / folder, ignore=shutil.ignore_patterns("__pycache__"))
    return tree


def started(installed: Path, module: str, job: dict[str, Any]) -> tuple[int, dict[str, Any]]:
    """Exit status and answer, of a child as the supervisor and 0.1.0 start it."""
    child = subprocess.run(
        [sys.executable, "-P", "-m", module],
        input=json.dumps(job),
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        cwd=job["bpf"],
        timeout=60,
        check=False,
    )
    assert child.stdout, child.stderr
    return child.returncode, json.loads(child.stdout)


def job_in(folder: Path) -> dict[str, Any]:
    """What 0.1.0 says of the gates; there are no sources."""
    return {"pins": str(folder / "pins"), "bpf": str(folder), "programs": str(folder / "programs")}


@pytest.mark.parametrize("module", [OBSERVERS_LOADER, GATES_LOADER, STAGE, *OF_0_1_0])
def test_a_child_answers_for_its_job(installed: Path, tmp_path: Path, module: str) -> None:
    more = {"cgroup": str(tmp_path), "acceptor": "auto", "before": "1", "same_events": True}
    status, answer = started(installed, module, job_in(tmp_path) | more)
    assert status == 1
    assert answer == {"error": f"{tmp_path}/abi.h: No such file or directory", "kind": "KernelError"}


def test_a_daemon_of_0_1_0_goes_on_with_the_gates_that_it_has_pinned(installed: Path, tmp_path: Path) -> None:
    """Those of this version do not fit its maps."""
    programs = tmp_path / "pins/1/programs"
    programs.mkdir(parents=True)
    for name in ("refuse_connect4", "refuse_connect6", "refuse_bind4", "refuse_bind6", "refuse_packet"):
        (programs / name).touch()
    status, answer = started(installed, "agent.kernel.gate_loader", job_in(tmp_path))
    assert status == 0
    assert answer["refused"].keys() == {"refuse_lookup", "judge_rewritten"}


def test_an_installed_tree_finds_its_own_sources(installed: Path) -> None:
    code = "from agent.kernel.compile.source import bpf_folder; print(bpf_folder())"
    done = subprocess.run(
        [sys.executable, "-P", "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONPATH": str(installed)},
        check=True,
    )
    assert Path(done.stdout.strip()) == installed / "bpf"
