"""Tables into the bytes of the maps: what the programs will read, field by field."""

from __future__ import annotations

import ctypes as ct
import dataclasses

import pytest

from agent import abi
from agent.kernel.tables.encode import encode_row, encode_set, encode_tables, silent_clauses
from agent.model import Mode, PortClass, Protocol, Reason, Target, to_network
from agent.policy.tables.shape import (
    ASKS_CONTAINER,
    ASKS_SUBORDINATE,
    ASKS_USER_NAMESPACE,
    NO_BOOT_NS,
    SET_BITS,
    Candidate,
    Dimension,
    Numbered,
    SetId,
    SubordinateKey,
    Tables,
    TargetKey,
    TargetRow,
    Uncertain,
    empty_tables,
)
from agent.policy.values import Unresolved

SILENT = dict.fromkeys(list(Dimension)[:5], (1 << SET_BITS) - 1)
"""No clause speaks of any dimension."""
FREE = SetId.FIRST_FREE


def tables_with(*sets: int) -> Tables:
    """`sets` are numbered from FREE on."""
    blank = list(empty_tables().sets)
    blank[SetId.IN_CONTAINER] = (1 << SET_BITS) - 1  # no clause speaks of what is outside only
    return dataclasses.replace(empty_tables(), sets=(*blank, *sets))


def candidate(principal: int, **changes: object) -> Candidate:
    fields = {"grant": 1, "principal": principal, "state": 0, "from_ns": 0, "expires_ns": 1, "ends_ns": 2}
    return Candidate(**{**fields, **changes})  # type: ignore[arg-type]


def row(*candidates: Candidate, **changes: object) -> TargetRow:
    fields = {
        "id": 1,
        "target": Target("db", PortClass.INTERNAL),
        "mode": Mode.OBSERVE,
        "unresolved": Unresolved.ALLOW,
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
    raw = encoded(
        tables_with(),
        row(mode=Mode.ENFORCE, unresolved=Unresolved.ALLOW_UNLESS_ENFORCING, clock_synced=False),
    )
    assert (raw.enforce, raw.unresolved, raw.clock_synced, raw.home_netns) == (1, 2, 0, 4)
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


def test_whether_a_process_is_in_a_container_is_asked_where_it_matters() -> None:
    tables = tables_with(0b10)
    sets = list(tables.sets)
    sets[SetId.IN_CONTAINER] = ~0b10 & (1 << SET_BITS) - 1  # clause 1 does not hold in there
    confined = dataclasses.replace(tables, sets=tuple(sets))
    assert encoded(confined, row(candidate(FREE))).dimensions == 1 << ASKS_CONTAINER
    sets = list(tables.sets)
    sets[SetId.ANY_CONTAINER] = 0b10  # it holds in any
    anywhere = dataclasses.replace(tables, sets=tuple(sets))
    assert encoded(anywhere, row(candidate(FREE))).dimensions == 1 << ASKS_CONTAINER
    assert encoded(tables, row(candidate(FREE))).dimensions == 0


def test_user_namespaces_are_asked_for_where_their_owners_are_excluded() -> None:
    sets = list(tables_with(0b10, 0b01).sets)
    sets[SetId.OWNED] = 0b10
    tables = dataclasses.replace(empty_tables(), sets=tuple(sets))
    assert encoded(tables, row(excluded=FREE)).dimensions == 1 << ASKS_USER_NAMESPACE
    assert encoded(tables, row(excluded=FREE + 1)).dimensions == 0


def test_subordinate_ids_are_asked_for_where_whose_they_are_is_excluded_and_has_some() -> None:
    sets = list(tables_with(0b10, 0b01).sets)
    sets[SetId.OWNED], sets[SetId.SUBORDINATE] = 0b11, 0b10
    tables = dataclasses.replace(empty_tables(), sets=tuple(sets))
    asks = 1 << ASKS_USER_NAMESPACE
    assert encoded(tables, row(excluded=FREE)).dimensions == asks | 1 << ASKS_SUBORDINATE
    assert encoded(tables, row(excluded=FREE + 1)).dimensions == asks


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
    key = TargetKey(netns=0, protocol=Protocol.TCP, ports=5, network=network)
    tables = dataclasses.replace(empty_tables(), targets={key: 9})
    ((raw, value),) = encode_tables(tables)["targets"]
    length, protocol, ports, netns, address = abi.TARGET_KEY.unpack(raw)
    assert length == 96 + 96 + 16  # protocol, port and namespace; the mapped prefix; the /16
    assert (protocol, ports, netns, address) == (6, 5, 0, network.network_address.packed)
    assert abi.U32.unpack(value) == (9,)


def test_each_port_has_its_number_and_all_others_none() -> None:
    numbers = (Numbered(1, 1, 2), Numbered(5432, 5434, 1), Numbered(65535, 65535, 9))
    ((_, raw),) = encode_tables(dataclasses.replace(empty_tables(), numbers=numbers))["port_numbers"]
    by_port = abi.PortNumbers.from_buffer_copy(raw).of
    found = {port: number for port, number in enumerate(by_port) if number}
    assert found == {1: 2, 5432: 1, 5433: 1, 5434: 1, 65535: 9}
    assert len(raw) == ct.sizeof(abi.PortNumbers)


def test_members_and_sources_name_their_sets() -> None:
    network = to_network("fd00::/8")
    tables = dataclasses.replace(empty_tables(), members={(Dimension.CGROUP, 77): 33}, sources={network: 34})
    encoded_tables = encode_tables(tables)
    assert encoded_tables["members"] == [(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, 77), abi.U32.pack(33))]
    assert encoded_tables["sources"] == [
        (abi.SOURCE_KEY.pack(8, network.network_address.packed), abi.U32.pack(34))
    ]


def test_a_block_of_subordinate_ids_is_a_prefix_of_the_uid() -> None:
    key = SubordinateKey(Dimension.GID, first=165536, prefixlen=27)
    tables = dataclasses.replace(empty_tables(), subordinates={key: 33})
    ((raw, value),) = encode_tables(tables)["subordinates"]
    length, dimension, uid = abi.SUBORDINATE_KEY.unpack(raw)
    assert (length, dimension, uid) == (32 + 27, Dimension.GID, (165536).to_bytes(4, "big"))
    assert abi.U32.unpack(value) == (33,)


def test_no_policy_declares_nothing_and_still_has_the_fixed_sets() -> None:
    raw = encode_tables(empty_tables())
    assert [name for name, pairs in raw.items() if pairs] == ["sets", "port_numbers"]
    assert not any(value.strip(b"\0") for _, value in raw["port_numbers"])
    assert len(raw["sets"]) == SetId.FIRST_FREE
