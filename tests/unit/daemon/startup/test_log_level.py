"""`licet run --log-level`: what is logged, and of whom."""

from __future__ import annotations

import subprocess
import sys

import pytest

LOGGING = """
import logging, sys
from agent.daemon.startup.process import log_to_stderr
log_to_stderr(sys.argv[1])
for name in ("agent.daemon.loop", "h2.connection"):
    for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR):
        logging.getLogger(name).log(level, "from %s", name)
"""


def logged(level: str) -> list[str]:
    done = subprocess.run(
        [sys.executable, "-c", LOGGING, level], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stderr.splitlines()


@pytest.mark.parametrize(
    ("level", "ours"),
    [
        ("error", ["ERROR"]),
        ("warning", ["WARNING", "ERROR"]),
        ("info", ["INFO", "WARNING", "ERROR"]),
    ],
)
def test_a_level_is_that_of_our_own_lines(level: str, ours: list[str]) -> None:
    lines = logged(level)
    assert [line for line in lines if "agent" in line] == [
        f"licet: {each}: from agent.daemon.loop" for each in ours
    ]
    assert [line for line in lines if "h2" in line] == [
        f"licet: {each}: from h2.connection" for each in ("WARNING", "ERROR")
    ]


def test_at_debug_a_line_says_when_and_where() -> None:
    ours = [line for line in logged("debug") if "from agent" in line]
    assert len(ours) == 4
    assert " DEBUG: agent.daemon.loop: from agent.daemon.loop" in ours[0]
    assert ours[0].startswith("licet: 20")


def test_no_name_in_a_line_steers_the_terminal() -> None:
    odd = "import logging; logging.getLogger('agent').error('file %s\\nsecond line', 'a\x1b[31m\u202e.json')"
    done = subprocess.run(
        [sys.executable, "-c", LOGGING + odd, "error"], capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stderr.splitlines()[-2:] == [r"licet: ERROR: file a\x1b[31m\u202e.json", "second line"]
