"""The chart as Helm renders it."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
HELM = ROOT / "packaging" / "helm"
CHART = HELM / "licet"

Object = dict[str, Any]


def run(values: Object, *options: str) -> subprocess.CompletedProcess[str]:
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(values, file)
        file.flush()
        argv = [sys.executable, HELM / "render.py", file.name, *options]
        return subprocess.run(argv, capture_output=True, text=True, check=False)


def render(values: Object | None = None) -> list[Object]:
    """The objects, in template order."""
    done = run(values or {})
    assert done.returncode == 0, done.stderr
    return [document for document in yaml.safe_load_all(done.stdout) if document]


def one(objects: list[Object], kind: str, name: str = "licet") -> Object:
    found = [each for each in objects if (each["kind"], each["metadata"]["name"]) == (kind, name)]
    assert len(found) == 1, f"{len(found)} of {kind}/{name}"
    return found[0]


def pod_of(objects: list[Object]) -> Object:
    pod: Object = one(objects, "DaemonSet")["spec"]["template"]["spec"]
    return pod


def container_of(objects: list[Object]) -> Object:
    (container,) = pod_of(objects)["containers"]
    assert isinstance(container, dict)
    return container
