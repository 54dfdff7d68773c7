"""Layouts of map rows: fields by name, offset and size, from the types that the kernel stores with a map
(BTF). A map pinned by an earlier version therefore describes its own rows. Standard library only.

Rows are converted field by field, by name. A field that the earlier row lacks becomes zero. Numbers are
little-endian and unsigned, so a wider number is its old bytes followed by zeros. Padding (pad, pad2, …) is
skipped."""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from agent.errors import PinError
from agent.system import bpf_map
from agent.system.btf import read_btf

_HEADER = struct.Struct("<HBBIIIII")
"""magic, version, flags, header size, offset and size of types, offset and size of strings (linux/btf.h)."""
_TYPE = struct.Struct("<III")
"""Offset of the name, info, size or type."""
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FUNC_PROTO, _VAR, _DATASEC = 1, 2, 3, 4, 5, 6, 13, 14, 15
_FLOAT, _DECL_TAG, _ENUM64 = 16, 17, 19
_SAME_AS = frozenset({8, 9, 10, 11, 18})
"""typedef, volatile, const, restrict, type tag: each refers to another type of the same layout."""
_WORDS_BEHIND = {_INT: 1, _ARRAY: 3, _VAR: 1, _DECL_TAG: 1}
_WORDS_EACH = {_STRUCT: 3, _UNION: 3, _ENUM: 2, _FUNC_PROTO: 2, _DATASEC: 3, _ENUM64: 3}
_PAD = re.compile(r"pad\d*")


@dataclass(frozen=True, slots=True)
class Field:
    name: str
    """With the names of the enclosing structs: consumer.exe; "": the row is one number."""
    offset: int
    size: int


@dataclass(frozen=True, slots=True)
class Layout:
    size: int
    fields: tuple[Field, ...]


@dataclass(frozen=True, slots=True)
class Rows:
    """The layouts of one map."""

    key: Layout
    value: Layout


@dataclass(frozen=True, slots=True)
class Conversion:
    """Converts the bytes of one layout into those of another."""

    size: int
    """The size of the result, in bytes."""
    moves: tuple[tuple[int, int, int], ...]
    """(from, to, bytes)."""

    def __call__(self, raw: bytes) -> bytes:
        made = bytearray(self.size)
        for start, to, size in self.moves:
            made[to : to + size] = raw[start : start + size]
        return bytes(made)


class Types:
    """Parsed BTF. Raises ValueError where `raw` is not valid BTF."""

    def __init__(self, raw: bytes) -> None:
        magic, _, _, header, at, size, strings, _ = _HEADER.unpack_from(raw)
        if magic != 0xEB9F:
            raise ValueError("not BTF")
        self._raw = raw
        self._strings = header + strings
        self._at = [0]
        place, end = header + at, header + at + size
        while place < end:
            self._at.append(place)
            _, info, _ = _TYPE.unpack_from(raw, place)
            kind, length = info >> 24 & 0x1F, info & 0xFFFF
            words = _WORDS_BEHIND.get(kind, 0) + _WORDS_EACH.get(kind, 0) * length
            place += _TYPE.size + 4 * words

    def layout(self, number: int) -> Layout:
        return Layout(self._size(number), tuple(self._fields(number, 0, "")))

    def _type(self, number: int) -> tuple[int, int, int, int]:
        """(offset of the data after the type record, kind, number of members, size or type)."""
        place = self._at[number]
        _, info, last = _TYPE.unpack_from(self._raw, place)
        return place + _TYPE.size, info >> 24 & 0x1F, info & 0xFFFF, last

    def _name(self, offset: int) -> str:
        start = self._strings + offset
        return self._raw[start : self._raw.index(b"\0", start)].decode()

    def _size(self, number: int) -> int:
        behind, kind, _, last = self._type(number)
        if kind in _SAME_AS:
            return self._size(last)
        if kind == _ARRAY:
            of, _, count = _TYPE.unpack_from(self._raw, behind)
            return int(self._size(of) * count)
        return 8 if kind == _PTR else last

    def _fields(self, number: int, offset: int, name: str) -> Iterator[Field]:
        behind, kind, length, last = self._type(number)
        if kind in _SAME_AS:
            yield from self._fields(last, offset, name)
        elif kind == _STRUCT:
            for place in range(length):
                text, of, bits = _TYPE.unpack_from(self._raw, behind + place * _TYPE.size)
                member = self._name(text)
                if not _PAD.fullmatch(member):
                    inner = f"{name}.{member}" if name and member else name or member
                    yield from self._fields(of, offset + (bits & 0xFFFFFF) // 8, inner)
        elif kind == _ARRAY and self._has_members(number):
            of, _, count = _TYPE.unpack_from(self._raw, behind)
            for place in range(count):
                yield from self._fields(of, offset + place * self._size(of), f"{name}[{place}]")
        else:
            yield Field(name, offset, self._size(number))

    def _has_members(self, number: int) -> bool:
        """True if the innermost elements of the array are structs."""
        behind, kind, _, last = self._type(number)
        if kind in _SAME_AS:
            return self._has_members(last)
        if kind == _ARRAY:
            return self._has_members(_TYPE.unpack_from(self._raw, behind)[0])
        return kind == _STRUCT


def rows_in(types: bytes, key_type: int, value_type: int) -> Rows | None:
    """None: the map has no type information (maps of maps, maps of programs, rings)."""
    if not types or not value_type:
        return None
    read = Types(types)
    return Rows(read.layout(key_type), read.layout(value_type))


def rows_of(fd: int) -> Rows | None:
    """The layouts of a map in the kernel."""
    info = bpf_map.map_info(fd)
    if not info.btf_id or not info.btf_value_type_id:
        return None
    return rows_in(read_btf(info.btf_id), info.btf_key_type_id, info.btf_value_type_id)


def is_as_before(before: Layout, after: Layout) -> bool:
    """True if each earlier field has the same place and size. New fields may use earlier padding, which is
    zero."""
    return before.size == after.size and set(before.fields) <= set(after.fields)


def conversion(before: Layout, after: Layout, of: str, without: frozenset[str] = frozenset()) -> Conversion:
    """`of`: the name of the rows, for the error. `without`: fields that this version has removed. Raises
    PinError where another field is missing or smaller: such rows come from a later version."""
    fields = {field.name: field for field in after.fields}
    moves: list[tuple[int, int, int]] = []
    for old in before.fields:
        if old.name in without:
            continue
        new = fields.get(old.name)
        if new is None or new.size < old.size:
            what = "is not known to this version" if new is None else "is smaller in this version"
            raise PinError(f"{of}: field {old.name} {what}; {A_LATER_VERSION}")
        moves.append((old.offset, new.offset, old.size))
    return Conversion(after.size, tuple(_joined(moves)))


A_LATER_VERSION = (
    "the pins seem to be of a later version of licet, whose programs go on judging: install that version "
    "again, or unload its programs with `licet unload --all` (counters restart at 0)"
)


def _joined(moves: list[tuple[int, int, int]]) -> Iterator[tuple[int, int, int]]:
    """Merge moves that are adjacent before and after."""
    held: tuple[int, int, int] | None = None
    for start, to, size in sorted(moves):
        if held and held[0] + held[2] == start and held[1] + held[2] == to:
            held = (held[0], held[1], held[2] + size)
            continue
        if held:
            yield held
        held = (start, to, size)
    if held:
        yield held
