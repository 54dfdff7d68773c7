"""Paths that the agent reads as root, so no other user may be able to write to them."""

from __future__ import annotations

from pathlib import Path

from agent.config import Settings
from agent.errors import LicetError
from agent.system import ownership
from agent.system.ownership import Doubt


def refuse_others(settings: Settings, config: Path) -> list[Doubt]:
    """Return the paths that a group could write to. The policy's files are checked at each read.

    Raises LicetError with every path that another user could write to."""
    paths = settings.paths
    doubts = ownership.doubts([config, paths.run, paths.state, paths.pins, paths.programs])
    refused = [str(doubt) for doubt in doubts if doubt.refuses]
    if refused:
        raise LicetError("\n".join(refused))
    return doubts
