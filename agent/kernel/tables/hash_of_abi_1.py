"""The path hash of version 0.1.0. Rows that 0.1.0 has left have this hash in their key. An upgrade moves
the rows of KEYED_BY_EXE to this version's hash.

Any user could make two names with the same hash, so this hash grants no right."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from agent.errors import PinError
from agent.kernel.pins import Pins
from agent.kernel.tables.layouts import rows_of
from agent.policy.terms.hashing import UNTRUSTED_NAME, path_hash
from agent.system.bpf_map import Map

FOLDER = "1"
KEYED_BY_EXE = frozenset({"uses", "told", "acceptors", "edges"})
"""Maps whose keys contain an executable's hash, in the field `exe`."""

_MULTIPLIER = 0x9FB21C651E98DF25
_MASK = (1 << 64) - 1
_CHUNK_BYTES = 64


def _mix(state: int, word: int) -> int:
    state = ((state ^ word) * _MULTIPLIER) & _MASK
    return state ^ (state >> 32)


def path_hash_of_abi_1(path: str, seed: int) -> int:
    state = seed
    for component in reversed([part for part in path.split("/") if part]):
        data = component.encode("utf-8", "surrogateescape")
        name = _mix(seed, len(data))
        for (word,) in struct.iter_unpack("<Q", data + bytes(-len(data) % _CHUNK_BYTES)):
            name = _mix(name, word)
        state = _mix(state, name)
    return state & ~1


def new_hashes(before: Pins) -> dict[bytes, bytes]:
    """Map 0.1.0's hash to this version's, as bytes of a key, for each executable whose full name is stored.

    Raises PinError."""
    settings, names = before.open_map("settings"), before.open_map("names")
    try:
        seed = int.from_bytes((settings.get(bytes(4)) or b"")[_places(settings)["seed"]], "little")
        places = _places(names)
        rows = ((exe, row[places["text"]], row[places["bytes"]]) for exe, row in names.items())
        return hashes_of(((exe, text[: int.from_bytes(size, "little")]) for exe, text, size in rows), seed)
    finally:
        settings.close()
        names.close()


def _places(table: Map) -> dict[str, slice]:
    """The position of each field in rows of 0.1.0."""
    rows = rows_of(table.fd)
    if rows is None:
        raise PinError(
            f"map {table.name} has no type information (BTF); run `licet unload` (counters restart at 0)"
        )
    return {one.name: slice(one.offset, one.offset + one.size) for one in rows.value.fields}


def hashes_of(names: Iterable[tuple[bytes, bytes]], seed: int) -> dict[bytes, bytes]:
    """`names`: hash and path. A truncated path has another hash, and is left out."""
    found = {}
    for exe, text in names:
        path, number = text.decode("utf-8", "surrogateescape"), int.from_bytes(exe, "little")
        flag = number & UNTRUSTED_NAME
        if path_hash_of_abi_1(path, seed) == number - flag:
            found[exe] = (path_hash(path, seed) | flag).to_bytes(8, "little")
    return found
