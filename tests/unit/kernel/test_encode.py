"""Tables into the bytes of the maps: what the programs will read, field by field."""

from __future__ import annotations

import dataclasses

import pytest

from agent.kernel import abi
from agent.kernel.maps import encode_row, encode_set, encode_tables, silent_clauses
from agent.model import Mode, PortClass, Protocol, Reason, Target, to_network
from agent.policy.tables import (
    NO_BOOT_NS,
    SET_BITS,
    Candidate,
    Dimension,
    SetId,
    Tables,
    TargetKey,
    TargetRow,
    Uncertain,
    empty_tables,
)

SILENT = dict.fromkeys(list(Dimension)[:5], (1 << SET_BITS) - 1)
"""No clause speaks of any dimension."""
FREE = SetId.FIRST_FREE


def tables_with(*sets: int) -> Tables:
    """`sets` are numbered from FREE on."""
    blank = empty_tables()
    return dataclasses.replace(blank, sets=(*blank.sets, *sets))


def candidate(principal: int, **changes: object) -> Candidate:
    fields = {"grant": 1, "principal": principal, "state": 0, "from_ns": 0, "expires_ns": 1, "ends_ns": 2}
    return Candidate(**{**fields, **changes})  # type: ignore[arg-type]


def row(*candidates: Candidate, **changes: object) -> TargetRow:
    fields = {
        "id": 1,
        "target": Target("db", PortClass.INTERNAL),
        "mode": Mode.OBSERVE,
        "unresolved_allowed": True,
        "clock_synced": True,
        "drops": False,
        "excluded": SetId.EMPTY,
        "home_netns": 4,
        "candidates": candidates,
    }
    return TargetRow(**{**fields, **changes})  # type: ignore[arg-type]


def encoded(tables: Tables, one: TargetRow, silent: dict[Dimension, int] | None = None) -> abi.TargetRow:
    return abi.TargetRow.from_buffer_copy(encode_row(tables, one, silent or SILENT))


def test_a_set_is_its_clauses_as_bits() -> None:
    raw = encode_set(1 << 0 | 1 << 9 | 1 << 1023)
    assert len(raw) == SET_BITS // 8
    assert (raw[0], raw[1], raw[127]) == (1, 2, 128)
    assert sum(raw) == 1 + 2 + 128


def test_a_row_carries_what_the_target_says() -> None:
    raw = encoded(tables_with(), row(mode=Mode.ENFORCE, unresolved_allowed=False, clock_synced=False))
    assert (raw.enforce, raw.unresolved_allowed, raw.clock_synced, raw.home_netns) == (1, 0, 0, 4)
    assert encoded(tables_with(), row()).enforce == 0


def test_candidates_keep_their_order_and_their_deadlines() -> None:
    one = candidate(FREE, grant=7, state=Reason.EXPIRED, from_ns=3, expires_ns=4, ends_ns=NO_BOOT_NS)
    raw = encoded(tables_with(1, 2), row(one, candidate(FREE + 1, grant=8)))
    assert raw.candidates == 2
    assert [each.grant for each in raw.candidate[:3]] == [7, 8, 0]
    first = raw.candidate[0]
    assert (first.principal, first.state) == (FREE, Reason.EXPIRED)
    assert (first.from_ns, first.expires_ns, first.ends_ns) == (3, 4, NO_BOOT_NS)


@pytest.mark.parametrize(
    ("clauses", "blocks"),
    [(0, 0), (1, 1), (1 << 255, 1), (1 << 256, 2), (1 << 511, 2), (1 << 512, 3), (1 << 1023, 4)],
)
def test_only_the_blocks_with_a_relevant_clause_are_looked_at(clauses: int, blocks: int) -> None:
    assert encoded(tables_with(clauses), row(candidate(FREE))).blocks == blocks


def test_excluded_clauses_are_relevant_too() -> None:
    assert encoded(tables_with(1 << 300), row(excluded=FREE)).blocks == 2


@pytest.mark.parametrize("dimension", list(Dimension)[:5])
def test_only_a_dimension_some_relevant_clause_speaks_of_is_looked_at(dimension: Dimension) -> None:
    everything = (1 << SET_BITS) - 1
    silent = {**SILENT, dimension: everything & ~0b10}  # clause 1 speaks of it
    assert encoded(tables_with(0b10), row(candidate(FREE)), silent).dimensions == 1 << dimension
    assert encoded(tables_with(0b01), row(candidate(FREE)), silent).dimensions == 0


def test_a_clause_that_may_hold_when_its_dimension_is_unknown_is_not_silent_of_it() -> None:
    sets = list(tables_with().sets)
    sets[SetId.MISS + Dimension.EXE] = 0b111  # an unknown name could match any of these…
    sets[SetId.CERTAIN + Uncertain.EXE] = 0b001  # …only this one whatever the name
    tables = dataclasses.replace(empty_tables(), sets=tuple(sets))
    assert silent_clauses(tables, Dimension.EXE) == 0b001


def test_uid_is_never_uncertain() -> None:
    sets = list(tables_with().sets)
    sets[SetId.MISS + Dimension.UID] = 0b11
    sets[SetId.CERTAIN] = 0b11
    assert silent_clauses(dataclasses.replace(empty_tables(), sets=tuple(sets)), Dimension.UID) == 0b11


def test_an_ipv4_target_is_a_prefix_of_the_mapped_address() -> None:
    network = to_network("10.1.0.0/16")
    key = TargetKey(netns=0, protocol=Protocol.TCP, port=5432, network=network)
    tables = dataclasses.replace(empty_tables(), targets={key: 9})
    ((raw, value),) = encode_tables(tables)["targets"]
    length, protocol, port, netns, address = abi.TARGET_KEY.unpack(raw)
    assert length == 96 + 96 + 16  # protocol, port and namespace; the mapped prefix; the /16
    assert (protocol, netns, address) == (6, 0, network.network_address.packed)
    assert raw[6:8] == (5432).to_bytes(2, "big")
    assert port != 5432
    assert abi.U32.unpack(value) == (9,)


def test_members_and_sources_name_their_sets() -> None:
    network = to_network("fd00::/8")
    tables = dataclasses.replace(empty_tables(), members={(Dimension.CGROUP, 77): 33}, sources={network: 34})
    encoded_tables = encode_tables(tables)
    assert encoded_tables["members"] == [(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, 77), abi.U32.pack(33))]
    assert encoded_tables["sources"] == [
        (abi.SOURCE_KEY.pack(8, network.network_address.packed), abi.U32.pack(34))
    ]


def test_no_policy_declares_nothing_and_still_has_the_fixed_sets() -> None:
    raw = encode_tables(empty_tables())
    assert [name for name, pairs in raw.items() if pairs] == ["sets"]
    assert len(raw["sets"]) == SetId.FIRST_FREE
