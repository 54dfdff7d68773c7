"""What the shell offers for an option's value. Nothing may go wrong here: a shell has no place for it."""

from __future__ import annotations

import os
from pathlib import Path

from agent.cli.output import client, target_names
from agent.cli.running import CONFIG
from agent.errors import LicetError
from agent.export.events import TYPES
from agent.model import Mode


def targets(incomplete: str) -> list[str]:
    """Services and service/class of the policy in force; none where no daemon answers."""
    try:
        known = client(_config()).get("/v1/policy")["targets"]
    except (LicetError, OSError, KeyError):
        return []
    return sorted(name for name in target_names(known) if name.startswith(incomplete))


def _config() -> Path | None:
    """Options before the word are not seen here."""
    named = os.environ.get(CONFIG)
    return Path(named) if named else None


def event_types(incomplete: str) -> list[str]:
    return [name for name in TYPES if name.startswith(incomplete)]


def modes(incomplete: str) -> list[str]:
    return [name for name in Mode if name.startswith(incomplete)]
