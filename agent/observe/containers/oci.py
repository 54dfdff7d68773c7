"""Annotations of an OCI config.json, in which containerd, nerdctl and CRI-O describe a container."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.model import Container
from agent.observe.containers.files import mapping, read_json, text

NAME = (
    "io.kubernetes.cri.container-name",  # containerd's CRI plugin
    "io.kubernetes.container.name",  # CRI-O, as kubelet labels it
    "nerdctl/name",
)
IMAGE = (
    "io.kubernetes.cri.image-name",
    "io.kubernetes.cri-o.ImageName",
    "io.kubernetes.cri-o.Image",
    "nerdctl/image-name",
    "org.opencontainers.image.ref.name",
)
POD = ("io.kubernetes.cri.sandbox-name", "io.kubernetes.pod.name")
NAMESPACE = ("io.kubernetes.cri.sandbox-namespace", "io.kubernetes.pod.namespace")
_LABELS = "io.kubernetes.cri-o.Labels"
"""This annotation holds all labels as a JSON text."""


def read_bundle(path: Path, number: str, runtime: str) -> Container | None:
    """The container described by the config.json at `path`; None if there is no such file."""
    config = read_json(path)
    if not isinstance(config, dict):
        return None
    known = {**_labels(mapping(config, "annotations")), **mapping(config, "annotations")}
    return Container(
        id=number,
        runtime=_manager(known) or runtime,
        name=text(known, *NAME),
        image=text(known, *IMAGE),
        pod=text(known, *POD),
        namespace=text(known, *NAMESPACE),
        known=True,
    )


def _labels(annotations: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = json.loads(text(annotations, _LABELS) or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _manager(annotations: Mapping[str, Any]) -> str:
    """The manager that the annotations name. CRI-O and podman store containers in the same directory."""
    manager = text(annotations, "io.container.manager")
    return "podman" if manager == "libpod" else manager
