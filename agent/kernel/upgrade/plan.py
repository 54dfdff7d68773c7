"""Which maps of the version before are kept, which are made anew, and of which the rows move. Standard
library only.

A map is kept, as it is, where every field of its rows is where it was. What a policy is compiled into is
always made anew: what its numbers mean belongs to the programs that read them. Scratch is made anew where its
shape changed. All others move (agent.kernel.upgrade.migration)."""

from __future__ import annotations

from enum import Enum

from agent import abi
from agent.errors import PinError
from agent.kernel.compile.compiled import Code, MapSpec
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.tables import hash_of_abi_1
from agent.kernel.tables.layouts import (
    A_LATER_VERSION,
    Conversion,
    Rows,
    conversion,
    is_as_before,
    rows_in,
    rows_of,
)
from agent.kernel.uapi import MapType
from agent.system import bpf_map

POLICY = frozenset(
    {"targets", "port_numbers", "sources", "subordinates", "rows", "members", "sets", "generation", "ports"}
)
OWN_CALLS = frozenset({"arrival_calls", "packet_calls", "sockops_calls", "listen_calls"})
"""Of programs that only the version's own programs may call."""
OWN_NOTES = frozenset({"exe_names", "exe_globs", "refusals"})
"""Caches, and what an observer asks of its own gate."""
ALWAYS_NEW = POLICY | OWN_CALLS | OWN_NOTES
"""What stands in them is the business of one version's programs, also where the shape is the same."""
RINGS = frozenset({"ring", "bulk"})
SCRATCH = RINGS | {
    "bind_clauses",
    "lookup_netns",
    "lookup_calls",
    "socket_owners",
    "use_counts",
    "connected",
}
"""Rows of use for microseconds; kept by sockets (socket_owners, and connected, which senders has, too), or
counted from others (use_counts), which is noted again at the next look; what waits in a ring of another
version's events is told in other ways."""
COUNTS: dict[str, tuple[str, ...]] = {
    "counts": ("",),
    "flow_counts": ("opened", "closed"),
    "unprotected": ("",),
    "losses": ("",),
    "refused": ("",),
    "misled": ("",),
    "uses": ("attempts",),
    "acceptors": ("",),
    "edges": ("",),
    "datagram_rows": ("",),
}
"""Fields that programs add to."""
ONLY_COUNTS = frozenset(COUNTS) - {"uses"}
BY_COOKIE = ("flows", "rowless")
"""By socket cookie; written at connect(), read at a later callback of the socket: bridged."""
UNDECIDED = {"flows": ("state", abi.FlowState.ATTEMPT)}
"""Rows that the gate right behind may delete. Until the observers have ended, the bridge alone brings them
over."""
MADE_AT = {
    "flows": "opened_ns",
    "owners": "since_ns",
    "senders": "seen_ns",
    "sents": "time_ns",
    "peers": "seen_ns",
}
"""When a row was made, or used: of two the later one holds."""
SPREAD_OVER = {"refused": "flow_counts"}
"""An array with so many places for each place of another: by target and gate."""
TAKEN = frozenset({*BY_COOKIE, "unserved"})
"""Rows that programs delete when they are done with, and that must not come back: taken when the programs of
before have ended."""
COPIED_AGAIN = frozenset(
    {"owners", "names", "uses", "subflows", "tuples", "late_tuples", "senders", "sents", "peers"}
)
"""Rows that programs of the version before may still have made after the first copy."""
DROPPED: dict[str, frozenset[str]] = {}
"""By map, fields of values that versions before had, and that nothing needs any more."""
GONE: frozenset[str] = frozenset()
"""Maps that versions before had."""

_HASHES = (MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)
ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)
_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


class Way(Enum):
    KEEP = "kept"
    NEW = "new"
    MOVE = "moved"


def plan(code: Code, before: Pins, *, same_events: bool) -> dict[str, Way]:
    """By name of each map to be pinned. Raises PinError where rows can't be read, or are of a later
    version."""
    later = set(before.maps()) - set(PINNED_MAPS) - GONE
    if later:
        raise PinError(
            f"{before.base}: map {', '.join(sorted(later))} is not known to this version; {A_LATER_VERSION}"
        )
    return {name: _way(name, code, before, same_events) for name in PINNED_MAPS}


def _way(name: str, code: Code, before: Pins, same_events: bool) -> Way:
    if name in ALWAYS_NEW or (name in RINGS and not same_events):
        return Way.NEW
    spec = code.maps[name]
    with before.opened(name) as fd:
        if fd is None:
            return Way.NEW
        info, rows = bpf_map.map_info(fd), rows_of(fd)
    wanted = rows_in(code.btf, spec.key_type, spec.value_type)
    same_keys = not _is_rehashed(name, before)
    if same_keys and _is_same(info, spec) and (not rows or not wanted or _fits(rows, wanted)):
        return Way.KEEP
    if name in SCRATCH:
        return Way.NEW
    _check(name, info, spec, rows, wanted)
    return Way.MOVE


def _is_rehashed(name: str, before: Pins) -> bool:
    return name in hash_of_abi_1.KEYED_BY_EXE and before.folder == hash_of_abi_1.FOLDER


def _is_same(info: bpf_map.MapInfo, spec: MapSpec) -> bool:
    shape = (info.type, info.key_size, info.value_size, info.max_entries, info.map_flags)
    return shape == (spec.type, spec.key_size, spec.value_size, spec.max_entries, spec.flags)


def _fits(rows: Rows, wanted: Rows) -> bool:
    return is_as_before(rows.key, wanted.key) and is_as_before(rows.value, wanted.value)


def _check(name: str, info: bpf_map.MapInfo, spec: MapSpec, rows: Rows | None, wanted: Rows | None) -> None:
    if rows is None or wanted is None:
        raise PinError(
            f"map {name} has another shape and says nothing of its rows; "
            "run `licet unload` (counters start anew)"
        )
    conversions(name, rows, wanted)
    readable = {*_HASHES, *ARRAYS} >= {info.type, spec.type}
    if not readable or (name not in ONLY_COUNTS and {info.type, spec.type} & {*_PER_CPU}):
        raise PinError(
            f"map {name} is of kind {info.type}, in this version of kind {spec.type}: "
            "its rows can't be moved; run `licet unload` (counters start anew)"
        )


def conversions(name: str, rows: Rows, wanted: Rows) -> tuple[Conversion, Conversion]:
    return (
        conversion(rows.key, wanted.key, f"map {name}"),
        conversion(rows.value, wanted.value, f"map {name}", DROPPED.get(name, frozenset())),
    )
