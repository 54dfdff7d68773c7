"""An image as a runtime unpacks it (opencontainers/image-spec), without one."""

from __future__ import annotations

import json
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Unpacked:
    root: Path
    config: dict[str, Any]
    """Env, Entrypoint, Cmd, Labels."""
    layers: int


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Of an OCI archive with one image, for one platform. White-outs of a second layer are not followed."""
    with tarfile.open(archive) as packed:

        def blob(descriptor: dict[str, Any]) -> Any:
            file = packed.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
            assert file is not None
            return file

        index = packed.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        manifest = json.load(blob(described))
        config = json.load(blob(manifest["config"]))["config"]
        root = folder / "root"
        root.mkdir()
        for layer in manifest["layers"]:
            tar = ["tar", "--extract", "--gzip", "--numeric-owner", "--same-permissions", "--directory", root]
            subprocess.run(tar, input=blob(layer).read(), check=True)
    return Unpacked(root, config, len(manifest["layers"]))
