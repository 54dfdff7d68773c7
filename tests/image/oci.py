"""An image as a runtime unpacks it (opencontainers/image-spec), without one."""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import tarfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_GONE = ".wh."
"""Before the name of what a layer takes away from those below."""


@dataclass(frozen=True, slots=True)
class Unpacked:
    root: Path
    config: dict[str, Any]
    """Env, Entrypoint, Cmd, Labels."""
    layers: tuple[int, ...]
    """Compressed, in bytes, lowest first."""


def unpack(archive: Path, folder: Path) -> Unpacked:
    """Of an OCI archive with one image, for one platform."""
    with tarfile.open(archive) as packed:

        def blob(descriptor: dict[str, Any]) -> bytes:
            file = packed.extractfile(f"blobs/{descriptor['digest'].replace(':', '/')}")
            assert file is not None
            return file.read()

        index = packed.extractfile("index.json")
        assert index is not None
        (described,) = json.load(index)["manifests"]
        manifest = json.loads(blob(described))
        config = json.loads(blob(manifest["config"]))["config"]
        root = folder / "root"
        root.mkdir()
        for layer in manifest["layers"]:
            _apply(blob(layer), root)
    return Unpacked(root, config, tuple(layer["size"] for layer in manifest["layers"]))


def _apply(layer: bytes, root: Path) -> None:
    with tarfile.open(fileobj=io.BytesIO(layer)) as opened:
        names = [Path(name) for name in opened.getnames()]
    for marker in (name for name in names if name.name.startswith(_GONE)):
        assert marker.name != ".wh..wh..opq", "no layer of ours replaces a whole folder"
        gone = root / marker.with_name(marker.name.removeprefix(_GONE))
        if gone.is_dir() and not gone.is_symlink():
            shutil.rmtree(gone)
        else:
            gone.unlink()
    tar = ["tar", "--extract", "--gzip", "--numeric-owner", "--same-permissions", f"--exclude={_GONE}*"]
    subprocess.run([*tar, "--directory", root], input=layer, check=True)
