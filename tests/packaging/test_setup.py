"""packaging/setup.sh, which `make setup` and every machine of vagrant/ run."""

import subprocess
from pathlib import Path

from tests.fixtures.lab import ROOT


def test_a_distribution_that_is_too_old_is_refused_before_anything_is_installed(tmp_path: Path) -> None:
    old = tmp_path / "python3"
    old.write_text("#!/bin/sh\nexit 1\n")  # what Python 3.10 says to the question of its version
    old.chmod(0o755)
    environment = {"PATH": "/usr/bin:/bin", "PYTHON": str(old)}
    setup = [ROOT / "packaging/setup.sh", tmp_path / "venv"]
    done = subprocess.run(setup, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"setup: {old} is older than Python 3.11; licet runs on Debian 12, Ubuntu 24.04, RHEL 10 and newer\n"
    )
    assert not (tmp_path / "venv").exists()
