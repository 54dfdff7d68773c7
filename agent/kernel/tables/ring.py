"""Decodes bytes from the event rings into the structs of abi.py."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Iterator

from agent import abi

Event = (
    abi.UseEvent
    | abi.NameEvent
    | abi.ListenEvent
    | abi.FlowEvent
    | abi.CgroupEvent
    | abi.NetnsEvent
    | abi.GoneEvent
)


def decode(records: list[bytes]) -> Iterator[Event]:
    """Decode records. Those of an unknown type or size come from another version and are skipped."""
    header_size = ct.sizeof(abi.EventHeader)
    for record in records:
        if len(record) < header_size:
            continue
        header = abi.EventHeader.from_buffer_copy(record)
        try:
            kind = abi.EVENT_STRUCTS[abi.EventType(header.type)]
        except ValueError:
            continue
        if len(record) >= ct.sizeof(kind):
            yield kind.from_buffer_copy(record)  # type: ignore[misc]


def path_of(event: abi.NameEvent) -> str:
    """The path that a name event carries. If a component was cut at COMPONENT_BYTES, the path contains no
    "…", but its hash differs from event.exe. The caller compares them."""
    names = [bytes(part.value) for part in event.part[: event.components] if part.value]
    return "/" + b"/".join(reversed(names)).decode("utf-8", "surrogateescape")


def may_be_deeper(event: abi.NameEvent) -> bool:
    """True if the event has the most components possible: the real path may then start above the first
    one."""
    return bool(event.components == abi.PATH_COMPONENTS)


def args_of(event: abi.UseEvent) -> tuple[str, ...]:
    raw = bytes(event.args[: event.args_bytes]).rstrip(b"\0")
    return tuple(part.decode("utf-8", "surrogateescape") for part in raw.split(b"\0")) if raw else ()
