"""Decides for each map of the old version: adopt it, create a new one, or move its rows. Standard library
only.

A map is adopted if every field of its rows has the same place as before. Maps of the compiled policy are
always created anew, because the meaning of their numbers belongs to the programs that read them. Scratch maps
are created anew if their shape changed. The rows of all other maps move (agent.kernel.upgrade.migration)."""

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
"""Maps of tail calls: only programs of the same version may call through them."""
OWN_NOTES = frozenset({"exe_names", "exe_globs", "refusals"})
"""Caches, and requests from an observer to the gate of the same version."""
ALWAYS_NEW = POLICY | OWN_CALLS | OWN_NOTES
"""Maps whose content belongs to one version's programs, even if the shape is the same."""
RINGS = frozenset({"ring", "bulk"})
SCRATCH = RINGS | {
    "bind_clauses",
    "lookup_netns",
    "lookup_calls",
    "socket_owners",
    "use_counts",
    "connected",
}
"""Maps whose rows need not move. Most rows are needed for microseconds only. Sockets hold the rows of
socket_owners and connected; senders has the latter, too. The next look counts use_counts again. Events that
wait in an old ring are carried over as a file (earlier_events.py)."""
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
"""By map: the fields in which programs count."""
ONLY_COUNTS = frozenset(COUNTS) - {"uses"}
BY_COOKIE = ("flows", "rowless")
"""Maps keyed by socket cookie, which the bridge copies: written at connect(), read at a later callback."""
UNDECIDED = {"flows": ("state", abi.FlowState.ATTEMPT)}
"""By map: the field and value that mark rows which the next gate may still delete. Until the old observers
have ended, only the bridge copies such rows."""
MADE_AT = {
    "flows": "opened_ns",
    "owners": "since_ns",
    "senders": "seen_ns",
    "sents": "time_ns",
    "peers": "seen_ns",
}
"""By map: the field with the time of creation or use. Of two rows, the later one wins."""
SPREAD_OVER = {"refused": "flow_counts"}
"""Arrays with several entries for each entry of another array: refused counts by target and gate."""
TAKEN = frozenset({*BY_COOKIE, "unserved"})
"""Maps whose rows programs delete after use, and whose deleted rows must not reappear. Their rows move when
the old programs have ended."""
COPIED_AGAIN = frozenset(
    {"owners", "names", "uses", "subflows", "tuples", "late_tuples", "senders", "sents", "peers"}
)
"""Maps to which programs of the old version may have added rows after the first copy."""
DROPPED: dict[str, frozenset[str]] = {}
"""By map: value fields of earlier versions that this version no longer needs."""
GONE: frozenset[str] = frozenset()
"""Maps of earlier versions that this version no longer has."""

_HASHES = (MapType.HASH, MapType.PERCPU_HASH, MapType.LRU_HASH, MapType.LRU_PERCPU_HASH)
ARRAYS = (MapType.ARRAY, MapType.PERCPU_ARRAY)
_PER_CPU = (MapType.PERCPU_HASH, MapType.PERCPU_ARRAY, MapType.LRU_PERCPU_HASH)


class Way(Enum):
    KEEP = "kept"
    NEW = "new"
    MOVE = "moved"


def plan(code: Code, before: Pins, *, same_events: bool) -> dict[str, Way]:
    """The decision by name of each pinned map. Raises PinError where rows can't be read, or come from a later
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
            f"map {name} has another shape and no type information (BTF); "
            "run `licet unload` (counters restart at 0)"
        )
    conversions(name, rows, wanted)
    readable = {*_HASHES, *ARRAYS} >= {info.type, spec.type}
    if not readable or (name not in ONLY_COUNTS and {info.type, spec.type} & {*_PER_CPU}):
        raise PinError(
            f"map {name} is of type {info.type}, in this version of type {spec.type}: "
            "its rows can't be moved; run `licet unload` (counters restart at 0)"
        )


def conversions(name: str, rows: Rows, wanted: Rows) -> tuple[Conversion, Conversion]:
    return (
        conversion(rows.key, wanted.key, f"map {name}"),
        conversion(rows.value, wanted.value, f"map {name}", DROPPED.get(name, frozenset())),
    )
