"""Carries events that waited in the old version's rings over an upgrade, in a file for the next daemon."""

from __future__ import annotations

import base64
import contextlib
import ctypes as ct
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from agent import abi
from agent.errors import PinError
from agent.kernel.pins import Pins
from agent.kernel.tables.layouts import Conversion, Field, Layout, conversion
from agent.system import bpf_map, files
from agent.system.bpf_ring import RingReader

_BYTES = abi.EventHeader.bytes.offset


def convert(records: Iterable[bytes], before: Mapping[str, Any]) -> Iterator[bytes]:
    """Convert records to this version's layout. Records that cannot be converted, or whose type is unknown,
    are left out.

    The header has the same layout in all versions."""
    now = abi.event_layouts()
    conversions: dict[str, Conversion | None] = {}
    for record in records:
        if len(record) < ct.sizeof(abi.EventHeader):
            continue
        kind = str(abi.EventHeader.from_buffer_copy(record).type)
        if kind not in conversions:
            conversions[kind] = _conversion(before.get(kind), now.get(kind))
        change = conversions[kind]
        if change is not None and len(record) >= before[kind][0]:
            made = bytearray(change(record))
            made[_BYTES : _BYTES + 4] = abi.U32.pack(len(made))
            yield bytes(made)


def _conversion(before: list[Any] | None, now: list[Any] | None) -> Conversion | None:
    if before is None or now is None:
        return None
    with contextlib.suppress(PinError):
        return conversion(_layout(before), _layout(now), "event")
    return None


def _layout(described: list[Any]) -> Layout:
    return Layout(described[0], tuple(Field(*field) for field in described[1]))


def carry(before: Pins, ready: Pins, layouts: Mapping[str, Any], to: Path) -> None:
    """Append the old rings' events to file `to`, for each ring that the upgrade replaces. Raises OSError."""
    for ring in ("ring", "bulk"):
        _carry(ring, before, ready, layouts, to)


def _carry(ring: str, before: Pins, ready: Pins, layouts: Mapping[str, Any], to: Path) -> None:
    with before.opened(ring) as old, ready.opened(ring) as new:
        if old is None or new is None or bpf_map.is_same_map(old, new):
            return
        reader = RingReader(old)
        try:
            records = reader.drain_all()
        finally:
            reader.close()
    # O_NONBLOCK: a FIFO at this path is an error; without the flag, open() would wait
    flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC
    with open(os.open(to, flags, 0o600), "ab") as kept:
        for record in convert(records, layouts):
            kept.write(base64.b64encode(record) + b"\n")


def kept_in(run: Path) -> Path:
    return run / "earlier-events"


def taken(kept: Path) -> list[bytes]:
    """The carried events; the file is then deleted. Empty if the file is missing or unreadable."""
    try:
        lines = files.read_bytes(kept).splitlines()
        kept.unlink()
        return [base64.b64decode(line) for line in lines]
    except (OSError, ValueError):
        return []
