"""crun and runc: one directory per container, made before its cgroup. For a container started by hand, the
name is the id. Below a manager (podman, CRI-O), the id is a number, and the manager has the name."""

from __future__ import annotations

import re
from pathlib import Path

from agent.model import Container
from agent.observe.containers.files import read_json
from agent.observe.containers.oci import read_bundle

_NUMBER = re.compile(r"[0-9a-f]{64}")
_SCOPE = re.compile(r"(?:crun|runc)-(.+)\.scope")


def id_of(component: str) -> str:
    """The container id in a cgroup's name, if it is a bare container's: runc-ID.scope, or the id itself."""
    scope = _SCOPE.fullmatch(component)
    return scope[1] if scope else component


def has_state(root: Path, number: str) -> bool:
    return number not in ("", ".", "..") and (root / number).is_dir()


def read_crun(root: Path, number: str) -> Container | None:
    if not has_state(root, number):
        return None
    found = read_bundle(root / number / "config.json", number, "crun") or Container(number, "crun")
    return _named(found, number)


def read_runc(root: Path, number: str) -> Container | None:
    """Read a runc container. state.json appears some milliseconds after the cgroup; it names the bundle."""
    if not has_state(root, number):
        return None
    state = read_json(root / number / "state.json")
    bundle = _label(state, "bundle")
    found = read_bundle(Path(bundle) / "config.json", number, "runc") if bundle else None
    return _named(found or Container(number, "runc"), number)


def _named(found: Container, number: str) -> Container | None:
    """The container with its name; None if a manager's container has no name in its annotations."""
    if _NUMBER.fullmatch(number) and not (found.name or found.pod):
        return None
    return Container(
        number, found.runtime, found.name or number, found.image, found.pod, found.namespace, known=True
    )


def _label(state: object, key: str) -> str:
    """A label of runc's state, which stores labels as key=value."""
    config = state.get("config") if isinstance(state, dict) else None
    labels = config.get("labels") if isinstance(config, dict) else None
    for label in labels if isinstance(labels, list) else ():
        if isinstance(label, str) and label.startswith(f"{key}="):
            return label.partition("=")[2]
    return ""
