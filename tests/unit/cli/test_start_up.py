"""What a command pays before it does anything: modules, since a time would depend on the machine."""

from __future__ import annotations

import subprocess
import sys

import pytest

IMPORTS = """
import contextlib, sys
sys.argv = ["licet", *sys.argv[1:]]
from agent.cli import main
with contextlib.suppress(SystemExit):
    main()
print(*sorted({name.partition(".")[0] for name in sys.modules}), file=sys.stderr)
"""
HEAVY = {"rich", "starlette", "uvicorn", "httpx", "pyroute2", "prometheus_client", "bcc"}


def imported_by(*arguments: str) -> set[str]:
    run = [sys.executable, "-c", IMPORTS, *arguments]
    child = subprocess.run(run, capture_output=True, text=True, check=True)
    return set(child.stderr.splitlines()[-1].split())


def test_saying_the_version_loads_no_server_no_table_and_no_kernel_library() -> None:
    assert imported_by("version") & HEAVY == set()


@pytest.mark.parametrize("command", ["status", "flows", "listeners", "events"])
def test_asking_the_daemon_loads_no_server(command: str) -> None:
    assert imported_by(command, "--json") & (HEAVY - {"rich"}) == set()
