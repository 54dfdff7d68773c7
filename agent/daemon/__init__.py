"""licet run: the wiring and the loop, and what holds the parts together. Nothing else wires."""

from __future__ import annotations

from pathlib import Path

from agent.config import DEFAULT_PATH, Settings


def main(settings: Settings, quiet: bool, config: Path = DEFAULT_PATH, log_level: str = "warning") -> int:
    """Runs the agent until SIGINT or SIGTERM; returns the exit code. Raises LicetError where it can't start.

    `quiet`: no lines for people on stderr. `config`: where the settings are from. `log_level`: as
    logging names it. What is attached and pinned
    stays when it ends."""
    from agent.daemon.startup.process import run  # here, so that other commands do not pay for it

    return run(settings, quiet, config, log_level)
