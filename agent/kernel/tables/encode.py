"""Encodes policy tables as keys and values of the maps by which programs judge."""

from __future__ import annotations

import ctypes as ct
from array import array
from collections.abc import Iterable, Mapping

from agent import abi
from agent.model import Mode, Network
from agent.policy.tables.shape import (
    ASKS_CONTAINER,
    ASKS_SUBORDINATE,
    ASKS_USER_NAMESPACE,
    SET_BITS,
    Dimension,
    Numbered,
    SetId,
    SubordinateKey,
    Tables,
    TargetKey,
    TargetRow,
    Uncertain,
)

_ZERO = abi.U32.pack(0)
_ELSEWHERE = abi.U32.pack(1)
"""An arbitrary value: a row of protocol 0 stands for an address, not for a target."""
_PORT_WORDS = 1024

_UNCERTAIN_BIT = {
    Dimension.EXE: Uncertain.EXE,
    Dimension.CGROUP: Uncertain.CGROUP,
    Dimension.NETNS: Uncertain.NETNS,
}
_DIMENSIONS = (Dimension.EXE, Dimension.UID, Dimension.GID, Dimension.CGROUP, Dimension.NETNS)


def silent_clauses(tables: Tables, dimension: Dimension) -> int:
    """Clauses without a condition on a dimension: the set of a miss, less the clauses that a miss leaves
    uncertain."""
    missed = tables.sets[SetId.MISS + dimension]
    return missed & tables.sets[SetId.CERTAIN + _UNCERTAIN_BIT.get(dimension, 0)]


def encode_row(tables: Tables, row: TargetRow, silent: Mapping[Dimension, int]) -> bytes:
    """A target's row. `silent`: by dimension, the clauses without a condition on the dimension."""
    principals = [tables.sets[candidate.principal] for candidate in row.candidates]
    excluded = tables.sets[row.excluded]
    relevant = excluded
    for principal in principals:
        relevant |= principal
    raw = abi.TargetRow(
        excluded=row.excluded,
        candidates=len(row.candidates),
        dimensions=sum(1 << dimension for dimension in _DIMENSIONS if relevant & ~silent[dimension])
        | _asks(tables, relevant),
        blocks=-(-relevant.bit_length() // (64 * abi.WORDS_IN_BLOCK)),
        enforce=row.mode is Mode.ENFORCE,
        unresolved=row.unresolved,
        clock_synced=row.clock_synced,
        drop=row.drops,
        gid_list=row.gid_list,
        home_netns=row.home_netns,
    )
    for place, candidate in enumerate(row.candidates):
        raw.candidate[place] = abi.Candidate(
            grant=candidate.grant,
            principal=candidate.principal,
            state=int(candidate.state),
            from_ns=candidate.from_ns,
            expires_ns=candidate.expires_ns,
            ends_ns=candidate.ends_ns,
        )
    return bytes(raw)


def _asks(tables: Tables, relevant: int) -> int:
    """The facts of a process needed beside the dimensions, as bits of a row's mask."""
    of_container = relevant & (~tables.sets[SetId.IN_CONTAINER] | tables.sets[SetId.ANY_CONTAINER])
    return (
        bool(of_container) << ASKS_CONTAINER
        | bool(relevant & tables.sets[SetId.OWNED]) << ASKS_USER_NAMESPACE
        | bool(relevant & tables.sets[SetId.SUBORDINATE]) << ASKS_SUBORDINATE
    )


def encode_target_key(key: TargetKey) -> bytes:
    return abi.TARGET_KEY.pack(
        abi.TARGET_KEY_FIXED_BITS + key.network.prefixlen,
        key.protocol,
        key.ports,
        key.netns,
        key.network.network_address.packed,
    )


def encode_subordinate_key(key: SubordinateKey) -> bytes:
    bits = abi.SUBORDINATE_KEY_FIXED_BITS + key.prefixlen
    return abi.SUBORDINATE_KEY.pack(bits, key.dimension, key.first.to_bytes(4, "big"))


def encode_numbers(numbers: Iterable[Numbered]) -> bytes:
    by_port = array("H", bytes(ct.sizeof(abi.PortNumbers)))
    for one in numbers:
        by_port[one.first : one.last + 1] = array("H", [one.number]) * (one.last + 1 - one.first)
    return by_port.tobytes()


def encode_set(clauses: int) -> bytes:
    return clauses.to_bytes(SET_BITS // 8, "little")


def encode_tables(tables: Tables) -> dict[str, list[tuple[bytes, bytes]]]:
    """Key and value bytes of every entry, by table."""
    silent = {dimension: silent_clauses(tables, dimension) for dimension in _DIMENSIONS}
    return {
        "sets": [(abi.U32.pack(i), encode_set(clauses)) for i, clauses in enumerate(tables.sets)],
        "rows": [
            *((abi.U32.pack(i), encode_row(tables, row, silent)) for i, row in tables.rows.items()),
            *(
                (abi.U32.pack(i | abi.OWNERS_OF), encode_row(tables, o, silent))
                for i, o in tables.owners.items()
            ),
        ],
        "members": [
            (abi.MEMBER_KEY.pack(dimension, 0, value), abi.U32.pack(set_id))
            for (dimension, value), set_id in tables.members.items()
        ],
        "sources": [
            (
                abi.SOURCE_KEY.pack(network.prefixlen, network.network_address.packed),
                abi.U32.pack(set_id),
            )
            for network, set_id in tables.sources.items()
        ],
        "subordinates": [
            (encode_subordinate_key(key), abi.U32.pack(set_id)) for key, set_id in tables.subordinates.items()
        ],
        "port_numbers": [(_ZERO, encode_numbers(tables.numbers))],
        "targets": [
            *((encode_target_key(key), abi.U32.pack(target)) for key, target in tables.targets.items()),
            *(
                (encode_target_key(TargetKey(netns, 0, 0, Network((int(address), 128)))), _ELSEWHERE)
                for netns, address in tables.elsewhere
            ),
        ],
    }


def port_words(ports: Iterable[int]) -> list[int]:
    words = [0] * _PORT_WORDS
    for port in ports:
        words[port >> 6] |= 1 << (port & 63)
    return words
