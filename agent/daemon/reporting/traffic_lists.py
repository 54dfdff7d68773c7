"""Lists that only user space can name: edges that no service declares, and flows by accepting process."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from agent import abi
from agent.export.events import target_fields
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.model import show_address
from agent.policy.tables.ids import Ids


def busiest_edges(counters: Counters, names: Names, limit: int) -> Sequence[dict[str, Any]]:
    """Edges, those with the most connections first."""
    found = []
    for key, value in counters.edges.items():
        raw = abi.EdgeKey.from_buffer_copy(key)
        found.append(
            {
                "direction": abi.DIRECTIONS[raw.direction],
                "exe": names[raw.exe],
                "uid": raw.uid,
                "peer": _peer(raw),
                "port": raw.port,
                "protocol": "udp" if raw.protocol == 17 else "tcp",
                "connections": abi.U64.unpack(value)[0],
            }
        )
    return sorted(found, key=lambda edge: -edge["connections"])[:limit]


def busiest_acceptors(counters: Counters, names: Names, ids: Ids) -> Sequence[dict[str, Any]]:
    """Number of flows of a target that each process accepted, most first."""
    found = []
    for key, value in counters.acceptors.items():
        raw = abi.AcceptorKey.from_buffer_copy(key)
        target = ids.target_named(raw.target)
        if target is not None:
            found.append(
                {
                    **target_fields(target),
                    "pid": raw.pid,
                    "start_boot_ns": raw.start_ns,
                    "exe": names[raw.exe],
                    "flows": abi.U64.unpack(value)[0],
                }
            )
    return sorted(found, key=lambda row: -row["flows"])


def _peer(edge: abi.EdgeKey) -> str:
    """The peer's address. Inbound edges are added up by network, so theirs is a /24 or /64."""
    address = edge.peer.value()
    if abi.DIRECTIONS[edge.direction] == "outbound":
        return show_address(address)
    return f"{show_address(address)}/{24 if address.ipv4_mapped else 64}"
