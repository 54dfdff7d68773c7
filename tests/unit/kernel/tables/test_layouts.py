"""Rows of a map by their types, and what becomes of a row of another version."""

from __future__ import annotations

import struct

import pytest

from agent.errors import PinError
from agent.kernel.tables.layouts import Field, Layout, Types, conversion, is_as_before, rows_in


class Btf:
    """Writes BTF (Documentation/bpf/btf.rst), a type at a time; each answers its number."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._strings = b"\0"

    def _add(self, name: str, kind: int, length: int, last: int, behind: bytes = b"") -> int:
        self._types.append(struct.pack("<III", self._string(name), kind << 24 | length, last) + behind)
        return len(self._types)

    def _string(self, text: str) -> int:
        if not text:
            return 0
        self._strings += text.encode() + b"\0"
        return len(self._strings) - len(text) - 1

    def int(self, name: str, size: int) -> int:
        return self._add(name, 1, 0, size, struct.pack("<I", size * 8))

    def typedef(self, name: str, of: int) -> int:
        return self._add(name, 8, 0, of)

    def array(self, of: int, count: int) -> int:
        return self._add("", 3, 0, 0, struct.pack("<III", of, of, count))

    def enum(self, name: str, *values: str) -> int:
        behind = b"".join(struct.pack("<II", self._string(one), i) for i, one in enumerate(values))
        return self._add(name, 6, len(values), 4, behind)

    def struct(self, name: str, size: int, *members: tuple[str, int, int]) -> int:
        behind = b"".join(struct.pack("<III", self._string(one), of, at * 8) for one, of, at in members)
        return self._add(name, 4, len(members), size, behind)

    def raw(self) -> bytes:
        types = b"".join(self._types)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings


def test_structs_in_structs_arrays_and_padding_are_read() -> None:
    btf = Btf()
    u8, u32 = btf.int("unsigned char", 1), btf.int("unsigned int", 4)
    named = btf.typedef("u32", u32)
    words = btf.array(named, 4)
    who = btf.struct("who", 8, ("pid", named, 0), ("pad", u32, 4))
    btf.enum("state", "OPEN", "CLOSED")
    pair = btf.array(who, 2)
    pad2 = btf.array(u8, 3)
    row = btf.struct("row", 40, ("", who, 0), ("to", words, 8), ("two", pair, 24), ("pad2", pad2, 37))
    layout = Types(btf.raw()).layout(row)
    assert layout == Layout(
        40,
        (Field("pid", 0, 4), Field("to", 8, 16), Field("two[0].pid", 24, 4), Field("two[1].pid", 32, 4)),
    )


def test_a_number_alone_has_no_name() -> None:
    btf = Btf()
    u64 = btf.int("unsigned long long", 8)
    named = btf.typedef("u64", u64)
    rows = rows_in(btf.raw(), u64, named)
    assert rows is not None
    assert rows.key == Layout(8, (Field("", 0, 8),))


@pytest.mark.parametrize("raw", [b"\0" * 32, b"\x9f\xeb"])
def test_what_is_no_btf_is_refused(raw: bytes) -> None:
    with pytest.raises((ValueError, struct.error)):
        Types(raw)


def layout(size: int, **fields: tuple[int, int]) -> Layout:
    return Layout(size, tuple(Field(name, *place) for name, place in fields.items()))


def test_fields_keep_their_values_wherever_they_go_and_a_new_one_is_zero() -> None:
    before = layout(12, a=(0, 4), b=(4, 4), c=(8, 2))
    after = layout(24, c=(0, 4), new=(4, 8), a=(12, 4), b=(16, 4))
    convert = conversion(before, after, "map x")
    assert convert(struct.pack("<IIHH", 7, 8, 9, 0xFFFF)) == struct.pack("<IQIII", 9, 0, 7, 8, 0)
    assert convert.moves == ((0, 12, 8), (8, 0, 2)), "neighbours are moved together"


def test_a_field_that_is_gone_or_smaller_is_of_a_later_version() -> None:
    before = layout(8, a=(0, 4), b=(4, 4))
    with pytest.raises(PinError, match=r"map x: field b is not known.*later version.*licet unload --all"):
        conversion(before, layout(4, a=(0, 4)), "map x")
    with pytest.raises(PinError, match="map x: field b is smaller"):
        conversion(before, layout(8, a=(0, 4), b=(4, 2)), "map x")
    assert conversion(before, layout(4, a=(0, 4)), "map x", frozenset({"b"})).moves == ((0, 0, 4),)


def test_only_what_was_padding_may_become_a_field_of_a_map_that_is_kept() -> None:
    before = layout(8, a=(0, 4), b=(4, 1))
    assert is_as_before(before, layout(8, a=(0, 4), b=(4, 1), new=(5, 1)))
    assert not is_as_before(before, layout(8, b=(0, 4), a=(4, 1)))
    assert not is_as_before(before, layout(16, a=(0, 4), b=(4, 1)))
