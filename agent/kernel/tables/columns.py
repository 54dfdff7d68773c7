"""Reads some fields of all rows of `flows`. 50,000 rows as objects take seconds of processor time; a few of
their fields take hundredths."""

from __future__ import annotations

import ctypes as ct
import struct
from collections.abc import Iterator
from typing import Any

from agent import abi
from agent.system.bpf_map import Map

_INTEGERS = {1: "B", 2: "H", 4: "I", 8: "Q"}


def columns(kind: type[ct.Structure], *fields: str) -> struct.Struct:
    """The format that unpacks these fields of a row and skips the others. `fields` are in their order in the
    struct; "verdict.target" names a field of a field. An integer unpacks as int, a struct as bytes."""
    text, end = "=", 0
    for name in fields:
        offset, of = _place(kind, name)
        size = ct.sizeof(of)
        text += f"{offset - end}x" + (f"{size}s" if issubclass(of, ct.Structure) else _INTEGERS[size])
        end = offset + size
    return struct.Struct(f"{text}{ct.sizeof(kind) - end}x")


def flow_columns(flows: Map, wanted: struct.Struct) -> Iterator[tuple[int, tuple[Any, ...]]]:
    """(cookie, the columns `wanted`) of each flow. The spare rows are skipped."""
    for keys, values in flows.batches():
        cookies = abi.U64.iter_unpack(keys)
        for (cookie,), row in zip(cookies, wanted.iter_unpack(values), strict=True):
            if cookie < abi.SPARE_FLOW:
                yield cookie, row


def _place(kind: Any, name: str) -> tuple[int, Any]:
    """(offset, type) of a field."""
    offset = 0
    for member in name.split("."):
        offset += getattr(kind, member).offset
        kind = dict(field[:2] for field in kind._fields_)[member]
    return offset, kind
