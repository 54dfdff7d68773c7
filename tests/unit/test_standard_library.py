"""What may use nothing but the standard library is imported without anything else in reach."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from agent.kernel.loading.supervisor import GATES_LOADER, OBSERVERS_LOADER
from agent.kernel.upgrade.staging import STAGE
from tests.fixtures.lab import ROOT

FLOOR = [f"agent.system.{file.stem}" for file in (ROOT / "agent/system").glob("[a-z]*.py")]


@pytest.mark.parametrize("modules", [["agent.abi", *FLOOR], [OBSERVERS_LOADER], [GATES_LOADER], [STAGE]])
def test_only_the_standard_library_is_imported(modules: list[str]) -> None:
    """-S: no site-packages."""
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", f"import {', '.join(modules)}"],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
