"""Reads what identifies this node: machine-id(5) and DMI's product_uuid."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.license.node import machine_id_node, product_node
from agent.system.files import read_bytes
from agent.system.rooted import path_in

PRODUCT_UUID = Path("/sys/class/dmi/id/product_uuid")
_MOST_BYTES = 128


@dataclass(frozen=True, slots=True)
class NodeIds:
    """By kind, `mi` and `dm`: each is in one of the two."""

    found: dict[str, str] = field(default_factory=dict)
    """Node ids."""
    missing: dict[str, str] = field(default_factory=dict)
    """Why there is none."""


def read_node_ids(proc: Path = Path("/proc"), product_uuid: Path = PRODUCT_UUID) -> NodeIds:
    """`proc`: the host's. Process 1 there has the host's files, also for an agent in a container."""
    ids = NodeIds()
    _add(ids, "mi", machine_id_node, lambda: path_in(proc / "1/root", "etc/machine-id"))
    _add(ids, "dm", product_node, lambda: product_uuid)
    return ids


def _add(ids: NodeIds, kind: str, node: Callable[[str], str], place: Callable[[], Path]) -> None:
    try:
        ids.found[kind] = node(read_bytes(place(), _MOST_BYTES).decode("ascii", "replace"))
    except OSError as error:
        ids.missing[kind] = f"{error.filename}: {error.strerror}"
    except ValueError as error:
        ids.missing[kind] = str(error)
