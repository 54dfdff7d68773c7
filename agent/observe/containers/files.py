"""Reading a runtime's JSON files: bounded, and never an error. They belong to others and change under us."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 8 * 1024 * 1024
"""The largest are lists of all containers of a node, some hundred kB."""


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """What the file holds; None if it is not there, too large, half written or no JSON."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                return None
            return json.loads(file.read(limit))
    except (OSError, ValueError, RecursionError):
        return None


def mapping(value: Any, key: str) -> Mapping[str, Any]:
    """The mapping at a key of what may be one; empty if it is anything else."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def text(value: Mapping[str, Any], *keys: str) -> str:
    """The first of the keys that holds text; "" if none does."""
    for key in keys:
        found = value.get(key)
        if isinstance(found, str) and found:
            return found
    return ""
