"""containerd: the bundle of each task, in one directory per containerd namespace (k8s.io, moby, default,
…)."""

from __future__ import annotations

import os
from pathlib import Path

from agent.model import Container
from agent.observe.containers.oci import read_bundle

MOBY = "moby"
"""docker's containerd namespace. Its bundles have no names; docker's own files have them."""


def read_containerd(root: Path, number: str) -> Container | None:
    try:
        spaces = sorted(os.listdir(root))
    except OSError:
        return None
    for space in spaces:
        if space == MOBY:
            continue
        found = read_bundle(root / space / number / "config.json", number, "containerd")
        if found:
            return found
    return None
