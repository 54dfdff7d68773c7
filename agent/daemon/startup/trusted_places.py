"""Places that root's agent reads from: nobody else may be able to write there."""

from __future__ import annotations

from pathlib import Path

from agent.config import Settings
from agent.errors import LicetError
from agent.system import ownership
from agent.system.ownership import Doubt


def refuse_others(settings: Settings, config: Path) -> list[Doubt]:
    """What a group could write. The policy's files are looked at whenever they are read.

    Raises LicetError with every place that somebody else could write to."""
    paths = settings.paths
    doubts = ownership.doubts([config, paths.run, paths.state, paths.pins, paths.programs])
    refused = [str(doubt) for doubt in doubts if doubt.refuses]
    if refused:
        raise LicetError("\n".join(refused))
    return doubts
