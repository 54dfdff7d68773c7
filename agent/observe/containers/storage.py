"""CRI-O and podman: containers/storage has a bundle for each container, and one list of their names."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.model import Container
from agent.observe.containers.files import mapping, read_json, text
from agent.observe.containers.oci import read_bundle

LISTS = ("containers.json", "volatile-containers.json")


class Storage:
    """Reads below several roots: that of the bundles (in /run) and that of the list (in /var/lib)."""

    def __init__(self, roots: tuple[Path, ...]) -> None:
        self._roots = roots
        self._lists: dict[Path, tuple[tuple[int, int, int], Mapping[str, Mapping[str, Any]]]] = {}
        """By file: its stat identity when it was read, and its entries by id."""

    def read(self, number: str) -> Container | None:
        bundles = (root / number / "userdata" / "config.json" for root in self._roots)
        found = next((one for path in bundles if (one := read_bundle(path, number, "podman"))), None)
        entry = self._entry(number)
        if not entry:
            # without an entry: podman's name is not known, but CRI-O's is in the bundle
            return found if found and (found.name or found.pod) else None
        names = entry.get("names")
        name = names[0] if isinstance(names, list) and names and isinstance(names[0], str) else ""
        image = text(_metadata(entry), "image-name")
        found = found or Container(number, "podman", known=True)
        return replace(found, name=found.name or name, image=found.image or image)

    def cgroup_of(self, number: str) -> str:
        """The cgroup that the runtime gave to a container; "" if it is not known."""
        for root in self._roots:
            config = read_json(root / number / "userdata" / "config.json")
            if isinstance(config, dict):
                return text(mapping(config, "linux"), "cgroupsPath")
        return ""

    def _entry(self, number: str) -> Mapping[str, Any]:
        for root in self._roots:
            for name in LISTS:
                entry = self._listed(root / name).get(number)
                if entry:
                    return entry
        return {}

    def _listed(self, path: Path) -> Mapping[str, Mapping[str, Any]]:
        try:
            status = os.stat(path)
        except OSError:
            return {}
        state = (status.st_ino, status.st_size, status.st_mtime_ns)
        known = self._lists.get(path)
        if known and known[0] == state:
            return known[1]
        raw = read_json(path)
        entries = [one for one in raw if isinstance(one, dict)] if isinstance(raw, list) else []
        listed = {one["id"]: one for one in entries if isinstance(one.get("id"), str)}
        self._lists[path] = (state, listed)
        return listed


def _metadata(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    try:
        found = json.loads(text(entry, "metadata") or "{}")
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}
