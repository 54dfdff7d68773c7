"""docker: /var/lib/docker/containers/ID/config.v2.json, written before the container first starts."""

from __future__ import annotations

from pathlib import Path

from agent.model import Container
from agent.observe.containers.files import mapping, read_json, text


def read_docker(root: Path, number: str) -> Container | None:
    state = read_json(root / number / "config.v2.json")
    if not isinstance(state, dict):
        return None
    config = mapping(state, "Config")
    labels = mapping(config, "Labels")  # the labels of Kubernetes come from cri-dockerd
    return Container(
        id=number,
        runtime="docker",
        name=text(labels, "io.kubernetes.container.name") or text(state, "Name").removeprefix("/"),
        image=text(config, "Image"),
        pod=text(labels, "io.kubernetes.pod.name"),
        namespace=text(labels, "io.kubernetes.pod.namespace"),
        known=True,
    )
