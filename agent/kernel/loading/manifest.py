"""The manifest of the loaded programs, stored in the run directory for the next start."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.config import Settings
from agent.errors import KernelError
from agent.kernel.pins import ABI_VERSION
from agent.system import files


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the loader did; stored as JSON in the run directory."""

    source: str
    cgroup: str
    cgroup_id: int
    hooks: dict[str, str]
    refused_rungs: dict[str, str]
    kernel: str
    bcc: str
    load_s: float
    abi: int = ABI_VERSION
    code: str = ""
    """Like `source`, but independent of the settings."""
    events: dict[str, Any] | None = None
    """The result of abi.event_layouts() at load time."""
    new_maps: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path) -> Manifest | None:
        """None: the file is missing, or another version wrote it."""
        try:
            return cls(**files.read_json(path))
        except (OSError, ValueError, TypeError):
            return None

    def write(self, path: Path) -> None:
        """Raises KernelError."""
        fields = {name: getattr(self, name) for name in self.__dataclass_fields__}
        _note(path, json.dumps(fields, indent=1))


def manifest_path(settings: Settings) -> Path:
    return settings.paths.run / "manifest.json"


def gates_path(settings: Settings) -> Path:
    return settings.paths.run / "gates.json"


def datagrams_path(settings: Settings) -> Path:
    return settings.paths.run / "datagrams.json"


def note_unit(noted: Path, source: str, made: Mapping[str, Any]) -> None:
    text = json.dumps({"source": source, "programs": made["programs"], "refused": made["refused"]})
    _note(noted, text)


def _note(path: Path, text: str) -> None:
    """Write the file atomically, in place of an existing one. Raises KernelError."""
    try:
        files.write_text(path, text)
    except OSError as error:
        raise KernelError(
            f"{path}: cannot be written: {error.strerror}; make room, or remove what is at this path"
        ) from error
