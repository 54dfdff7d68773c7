"""The pin paths: <pins>/<abi>/{maps,programs,links}/<name>. During an upgrade, the new version's pins are in
<pins>/next/… . Standard library only."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.errors import PinError
from agent.system import bpf_map, libbpf

ABI_VERSION = 2
"""Increased by each release whose pins an earlier one cannot read: bpf/abi.h changed, or the meaning of its
numbers. The earlier release then reports this and changes nothing. 0.1.0 has 1."""
NEXT = "next"

PINNED_MAPS = (
    "targets",
    "port_numbers",
    "sources",
    "subordinates",
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
    "arrival_calls",
    "packet_calls",
    "senders",
    "sents",
    "peers",
    "datagram_rows",
    "connected",
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
    "exe_globs",
    "names",
    "owners",
    "more_strangers",
    "more_owners",
    "crowded",
    "socket_owners",
    "listen_calls",
    "misled",
    "ring",
    "bulk",
    "use_counts",
)


@dataclass(frozen=True, slots=True)
class Pins:
    """The pins of one agent under `root` (config: paths.pins)."""

    root: Path
    folder: str = str(ABI_VERSION)

    @property
    def base(self) -> Path:
        return self.root / self.folder

    @property
    def ready(self) -> Pins:
        """The pins made ready to replace those in force."""
        return Pins(self.root, NEXT)

    def in_force(self) -> Pins | None:
        """The pins of this version, or of an earlier one; None: nothing is loaded. Raises PinError where a
        later version has loaded programs."""
        numbers = (int(name) for name in _names(self.root) if name.isdecimal())
        self._refuse([str(number) for number in sorted(numbers) if number > ABI_VERSION])
        return next((pins for pins in self.versions() if pins.maps()), None)

    def versions(self) -> list[Pins]:
        """The existing folders of this version and of earlier ones, the newest first."""
        numbers = (int(name) for name in _names(self.root) if name.isdecimal())
        known = sorted((number for number in numbers if number <= ABI_VERSION), reverse=True)
        return [Pins(self.root, str(number)) for number in known]

    def map(self, name: str) -> Path:
        return self.base / "maps" / name

    def program(self, name: str) -> Path:
        return self.base / "programs" / name

    def link(self, name: str) -> Path:
        return self.base / "links" / name

    def maps(self) -> list[str]:
        return _names(self.base / "maps")

    def links(self) -> list[str]:
        return _names(self.base / "links")

    def programs(self) -> list[str]:
        return _names(self.base / "programs")

    def make_folders(self) -> None:
        for folder in ("maps", "programs", "links"):
            (self.base / folder).mkdir(parents=True, exist_ok=True)

    def refuse_other_versions(self) -> None:
        """Raise PinError if another version has pins: two attached versions would count everything twice."""
        self._refuse([name for name in _names(self.root) if name != self.folder])

    def _refuse(self, others: list[str]) -> None:
        if others:
            raise PinError(
                f"{self.root}: programs of another version of licet (ABI {', '.join(others)}; this one has "
                f"{ABI_VERSION}) are loaded; run `licet unload` of that version, or `licet unload --all`"
            )

    def open_map(self, name: str) -> bpf_map.Map:
        """Open a pinned map. Raises PinError where it is not pinned."""
        try:
            return bpf_map.Map.from_fd(libbpf.open_pin(self.map(name)), name)
        except OSError as error:
            raise PinError(f"{self.map(name)}: {error.strerror}; run `licet load`") from error

    @contextlib.contextmanager
    def opened(self, name: str) -> Iterator[int | None]:
        """The fd of a map, closed on exit; None where the map is not pinned."""
        try:
            fd = libbpf.open_pin(self.map(name))
        except FileNotFoundError:
            yield None
            return
        try:
            yield fd
        finally:
            os.close(fd)

    def clear(self) -> None:
        """Delete the pins of this folder. Links go first: with the last reference, the kernel detaches."""
        for folder in ("links", "programs", "maps"):
            shutil.rmtree(self.base / folder, ignore_errors=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def remove(self, *, all_versions: bool = False) -> dict[str, int]:
        """Delete the pins of this version, of earlier ones and of `next`; with `all_versions`, of every one.
        Return how many links, programs and maps were pinned."""
        names = _names(self.root)
        ours = [name for name in names if name == NEXT or (name.isdecimal() and int(name) <= ABI_VERSION)]
        removed = dict.fromkeys(("links", "programs", "maps"), 0)
        for pins in [Pins(self.root, name) for name in (names if all_versions else ours)]:
            removed["links"] += len(pins.links())
            removed["programs"] += len(pins.programs())
            removed["maps"] += len(pins.maps())
            pins.clear()
        if self.root.exists() and not _names(self.root):
            self.root.rmdir()
        return removed


def _names(folder: Path) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
