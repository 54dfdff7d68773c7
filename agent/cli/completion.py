"""Shell completion of option values. It must never fail: a shell cannot show an error there."""

from __future__ import annotations

import os
from pathlib import Path

from agent.cli.output import client, target_names
from agent.cli.running import CONFIG
from agent.errors import LicetError
from agent.export.events import TYPES
from agent.model import Mode


def targets(incomplete: str) -> list[str]:
    """Services and service/class of the policy in force; empty if no daemon answers."""
    try:
        known = client(_config()).get("/v1/policy")["targets"]
    except (LicetError, OSError, KeyError):
        return []
    return sorted(name for name in target_names(known) if name.startswith(incomplete))


def _config() -> Path | None:
    """The configuration from the environment. Completion cannot see the options before the word."""
    named = os.environ.get(CONFIG)
    return Path(named) if named else None


def event_types(incomplete: str) -> list[str]:
    return [name for name in TYPES if name.startswith(incomplete)]


def modes(incomplete: str) -> list[str]:
    return [name for name in Mode if name.startswith(incomplete)]
