"""licet run: the wiring and the loop, and what holds the parts together. Nothing else wires."""

from __future__ import annotations

from agent.config import Settings


def main(settings: Settings, quiet: bool) -> int:
    """Runs the agent until SIGINT or SIGTERM; returns the exit code. Raises LicetError where it can't start.

    `quiet`: no lines for people on stderr. What is attached and pinned stays when it ends."""
    from agent.daemon.run import run  # here, so that other commands do not pay for it

    return run(settings, quiet)
