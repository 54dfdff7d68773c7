"""`licet run`: the daemon's parts, the wiring that builds them and the loop that runs them. No other package
wires."""

from __future__ import annotations

from pathlib import Path

from agent.config import DEFAULT_PATH, Settings


def main(settings: Settings, quiet: bool, config: Path = DEFAULT_PATH, log_level: str = "warning") -> int:
    """Run the agent until SIGINT or SIGTERM and return the exit code. Raises LicetError if the agent cannot
    start.

    `quiet`: print no lines for people on stderr. `config`: the file of the settings. `log_level`: a level
    name of the logging module. Attached and pinned programs stay after the agent's end."""
    from agent.daemon.startup.process import run  # imported here, so that other commands do not pay for it

    return run(settings, quiet, config, log_level)
