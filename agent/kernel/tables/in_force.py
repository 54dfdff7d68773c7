"""Reads from the pins what the kernel enforces, with or without a daemon. Standard library only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from agent import abi
from agent.kernel.pins import ABI_VERSION, Pins
from agent.system import bpf_map
from agent.system.boottime import boot_ns

HOST = 0
"""The key of the host in map modes."""


@dataclass(frozen=True, slots=True)
class TargetMode:
    """The mode of a target. `until_ns`: when an override ends (CLOCK_BOOTTIME); None: no override ends."""

    target: int
    enforces: bool
    until_ns: int | None = None


@dataclass(frozen=True, slots=True)
class InForce:
    version: str
    """The version of the pins."""
    links: int
    gates: tuple[str, ...] = ()
    """The gates that refuse: those attached."""
    modes: tuple[TargetMode, ...] = ()

    @property
    def is_readable(self) -> bool:
        """False if the pins are an earlier version's, whose tables this version does not read."""
        return self.version == str(ABI_VERSION)

    @property
    def refusing(self) -> tuple[TargetMode, ...]:
        return tuple(one for one in self.modes if one.enforces) if self.gates else ()


def in_force(pins: Pins) -> InForce | None:
    """None: nothing is loaded. Raises PinError where a later version has loaded programs. Raises OSError
    where the pins cannot be read, for example without root rights."""
    found = pins.in_force()
    if found is None:
        return None
    links = len(found.links())
    if found.folder != str(ABI_VERSION):
        return InForce(found.folder, links)
    with found.opened("settings") as settings:
        raw = _row(settings, abi.U32.pack(0)) if settings is not None else None
    mask = abi.Settings.from_buffer_copy(raw).gates if raw else 0
    gates = tuple(gate for place, gate in enumerate(abi.GATES) if mask >> place & 1)
    return InForce(found.folder, links, gates, tuple(_modes(found)))


def _row(fd: int, key: bytes) -> bytes | None:
    return bpf_map.Map.from_fd(fd, "").get(key)


def _modes(pins: Pins) -> Iterator[TargetMode]:
    now_ns = boot_ns()
    with pins.opened("modes") as fd:
        if fd is None:
            return
        modes = bpf_map.Map.from_fd(fd, "modes")
        for number, row in sorted(_rows(pins).items()):
            yield _mode(modes, number, row, now_ns)


def _mode(modes: bpf_map.Map, number: int, row: abi.TargetRow, now_ns: int) -> TargetMode:
    """Like enforces() of bpf/lib/mode.h: the target's override first, then the host's, then the policy."""
    for place in (number, HOST):
        raw = modes.get(abi.U32.pack(place))
        override = abi.RawMode.from_buffer_copy(raw) if raw else abi.RawMode()
        if override.override != abi.Override.NONE and now_ns < override.until_ns:
            until_ns = None if override.until_ns == abi.NEVER_NS else int(override.until_ns)
            return TargetMode(number, override.override == abi.Override.ENFORCE, until_ns)
    return TargetMode(number, bool(row.enforce))


def _rows(pins: Pins) -> dict[int, abi.TargetRow]:
    """The rows of the generation in force, by target."""
    with pins.opened("generation") as generation, pins.opened("rows") as outer:
        if generation is None or outer is None:
            return {}
        raw = _row(generation, abi.U32.pack(0))
        inner = _row(outer, abi.U32.pack(abi.U64.unpack(raw)[0] & 1)) if raw else None
    if inner is None:
        return {}
    rows = bpf_map.open_map(abi.U32.unpack(inner)[0], "rows")
    try:
        found = ((abi.U32.unpack(key)[0], value) for key, value in rows.items())
        return {
            number: abi.TargetRow.from_buffer_copy(value)
            for number, value in found
            if number <= abi.MAX_TARGETS
        }
    finally:
        rows.close()
