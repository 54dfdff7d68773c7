"""Where everything pinned lives: <pins>/<abi>/{maps,programs,links}/<name>. Standard library only."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PinError
from agent.kernel import libbpf

ABI_VERSION = 1
"""Grows with every change to bpf/abi.h that an older daemon could not read."""

PINNED_MAPS = (
    "targets",
    "sources",
    "rows",
    "members",
    "sets",
    "generation",
    "ports",
    "settings",
    "counts",
    "flow_counts",
    "found_flows",
    "unprotected",
    "modes",
    "failsafe",
    "refused",
    "refusals",
    "bind_clauses",
    "judged_syns",
    "tc_netns",
    "lookup_netns",
    "lookup_calls",
    "sockops_calls",
    "losses",
    "uses",
    "told",
    "acceptors",
    "edges",
    "flows",
    "tuples",
    "late_tuples",
    "rowless",
    "subflows",
    "unserved",
    "exe_names",
    "names",
    "owners",
    "socket_owners",
    "ring",
)


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of one agent under `root` (config: paths.pins)."""

    root: Path

    @property
    def base(self) -> Path:
        return self.root / str(ABI_VERSION)

    def map(self, name: str) -> Path:
        return self.base / "maps" / name

    def program(self, name: str) -> Path:
        return self.base / "programs" / name

    def link(self, name: str) -> Path:
        return self.base / "links" / name

    def links(self) -> list[str]:
        return _names(self.base / "links")

    def programs(self) -> list[str]:
        return _names(self.base / "programs")

    def make_folders(self) -> None:
        for folder in ("maps", "programs", "links"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)

    def refuse_other_versions(self) -> None:
        """Two versions attached side by side would count everything twice."""
        others = [name for name in _names(self.root) if name != str(ABI_VERSION)]
        if others:
            raise PinError(
                f"{self.root}: programs of another version of licet (ABI {', '.join(others)}; this one has "
                f"{ABI_VERSION}) are loaded; run `licet unload` of that version, or `licet unload --all`"
            )

    def open_map(self, name: str) -> libbpf.Map:
        """Raises PinError where it is not pinned."""
        try:
            return libbpf.Map.from_fd(libbpf.open_pin(self.map(name)), name)
        except OSError as error:
            raise PinError(f"{self.map(name)}: {error.strerror}; run `licet load`") from error

    def remove(self, *, all_versions: bool = False) -> None:
        """Let go of everything. Links go first: with the last reference, the kernel detaches."""
        for base in [self.root / name for name in _names(self.root)] if all_versions else [self.base]:
            for folder in ("links", "programs", "maps"):
                shutil.rmtree(base / folder, ignore_errors=True)
            if base.exists():
                base.rmdir()
        if self.root.exists() and not _names(self.root):
            self.root.rmdir()


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
