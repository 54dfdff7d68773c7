from __future__ import annotations

import ctypes as ct
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent import abi
from agent.kernel.tables.columns import columns, flow_columns
from tests.unit.kernel.memory_map import BATCH, MemoryMap

FIELDS = (
    *("opened_ns", "server_cookie", "consumer.netns", "consumer.pid", "owner.exe", "state", "pre_existing"),
    *("verdict.target", "verdict.decision", "local", "remote", "local_port", "remote_port", "sequence"),
)


@given(
    st.binary(min_size=ct.sizeof(abi.Flow), max_size=ct.sizeof(abi.Flow)),
    st.lists(st.sampled_from(FIELDS), min_size=1, unique=True),
)
def test_columns_are_the_fields_of_the_row(raw: bytes, wanted: list[str]) -> None:
    names = sorted(wanted, key=FIELDS.index)
    row = abi.Flow.from_buffer_copy(raw)
    assert columns(abi.Flow, *names).unpack(raw) == tuple(value_of(row, name) for name in names)


def value_of(row: object, name: str) -> object:
    for member in name.split("."):
        row = getattr(row, member)
    return bytes(row) if isinstance(row, ct.Structure) else row


def test_fields_in_another_order_than_in_the_struct_are_refused() -> None:
    with pytest.raises(struct.error):
        columns(abi.Flow, "state", "opened_ns")


def test_every_flow_is_read_once_with_its_cookie_and_no_spare_row() -> None:
    flows, many = MemoryMap("flows"), 2 * BATCH + 1
    for number in range(many):
        flows.put(abi.U64.pack(number), bytes(abi.Flow(opened_ns=7 * number)))
    flows.put(abi.U64.pack(abi.SPARE_FLOW | 1), bytes(abi.Flow(opened_ns=5)))
    found = list(flow_columns(flows, columns(abi.Flow, "opened_ns")))  # type: ignore[arg-type]
    assert found == [(number, (7 * number,)) for number in range(many)]
