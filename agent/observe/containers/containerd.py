"""containerd: each task's bundle, in a folder for each of its namespaces (k8s.io, moby, default, …)."""

from __future__ import annotations

import os
from pathlib import Path

from agent.model import Container
from agent.observe.containers.oci import read_bundle

MOBY = "moby"
"""docker's namespace: the bundle has no name in it, docker's own files have."""


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
