"""Reads JSON files of container runtimes: with a size limit, and without raising errors. The files belong
to other programs and may change during a read."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

MAX_BYTES = 8 * 1024 * 1024
"""The largest files are lists of all containers of a node, some hundred kB."""


def read_json(path: Path, limit: int = MAX_BYTES) -> Any:
    """The parsed content; None if the file is missing, too large, incomplete or not JSON."""
    try:
        with open(path, "rb") as file:
            if os.fstat(file.fileno()).st_size > limit:
                return None
            return json.loads(file.read(limit))
    except (OSError, ValueError, RecursionError):
        return None


def mapping(value: Any, key: str) -> Mapping[str, Any]:
    """The mapping at a key; empty if `value` or the entry is not a mapping."""
    found = value.get(key) if isinstance(value, dict) else None
    return found if isinstance(found, dict) else {}


def text(value: Mapping[str, Any], *keys: str) -> str:
    """The first of the keys that holds text; "" if none does."""
    for key in keys:
        found = value.get(key)
        if isinstance(found, str) and found:
            return found
    return ""
