"""Moves rows from maps of the old version to those of this one, while programs of both versions run. This
concerns each map that exists in two shapes. Standard library only.

Rows are copied in their new shape before the new programs run, and again after the old programs have ended.
Counts stay in the old map until then, and are then drained (agent.kernel.upgrade.bridge)."""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from agent import abi
from agent.errors import KernelError, PinError
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.tables import hash_of_abi_1
from agent.kernel.tables.layouts import (
    Conversion,
    Layout,
    rows_of,
)
from agent.kernel.uapi import NOEXIST
from agent.kernel.upgrade.bridge import Bridged, Drain
from agent.kernel.upgrade.plan import (
    ALWAYS_NEW,
    ARRAYS,
    BY_COOKIE,
    COPIED_AGAIN,
    COUNTS,
    MADE_AT,
    ONLY_COUNTS,
    SCRATCH,
    SPREAD_OVER,
    TAKEN,
    UNDECIDED,
    conversions,
)
from agent.system import bpf_map
from agent.system.bpf_map import Map


@dataclass(frozen=True, slots=True)
class Move:
    """One map in two shapes."""

    name: str
    before: Map
    after: Map
    convert_key: Conversion
    convert: Conversion
    counts: tuple[tuple[int, int], ...]
    made_at: tuple[int, int] | None
    spread: tuple[int, int] = (1, 1)
    """The number of array entries for one target, before and after."""
    is_array: bool = False
    undecided: tuple[int, int] | None = None
    """Offset and value of the byte that marks an undecided row."""
    hashes: Mapping[bytes, bytes] = field(default_factory=dict)
    """Map the old hash of an executable to this version's, for keys with a hash at offset `exe`."""
    exe: int = 0

    def copy(self) -> None:
        """Copy rows that are missing in the new map, without their counts. A later row replaces an earlier
        one.

        If a socket closes after its row was read, the bridge deletes the old row. The copy is then deleted,
        too. Raises KernelError if the new map has no room."""
        if self.name in ONLY_COUNTS:
            return
        for key, value in self.before.items():
            if is_spare(self.name, key) or self._is_undecided(value):
                continue
            self._bring(key, value)
            if self.name in BY_COOKIE and self.before.get(key) is None:
                self.after.remove(self.key(key))

    def take(self) -> None:
        """Like copy(), but delete the rows from the old map. If the bridge has already deleted the row of a
        closed socket, the copy is deleted, too."""
        for key, value in self.before.items():
            if is_spare(self.name, key):
                continue
            self._bring(key, value)
            if not self.before.remove(key):
                self.after.remove(self.key(key))

    def _is_undecided(self, value: bytes) -> bool:
        return self.undecided is not None and value[self.undecided[0]] == self.undecided[1]

    def key(self, key: bytes) -> bytes:
        if not self.is_array:
            exe = slice(self.exe, self.exe + 8)
            known = self.hashes.get(key[exe])
            return self.convert_key(key if known is None else key[: exe.start] + known + key[exe.stop :])
        width, new_width = self.spread
        number = int.from_bytes(key, "little")
        return (number // width * new_width + number % width).to_bytes(4, "little")

    def _bring(self, key: bytes, value: bytes) -> None:
        made, new_key = self._uncounted(value), self.key(key)
        if self.is_array:
            if any(value) and int.from_bytes(new_key, "little") < self.after.max_entries:
                self.after.put(new_key, made)
            return
        try:
            self.after.put(new_key, made, NOEXIST)
        except OSError as error:
            if error.errno in (errno.E2BIG, errno.ENOSPC):
                raise KernelError(f"map {self.name}: its rows do not fit into this version's") from error
            if error.errno != errno.EEXIST:
                raise
            if self.made_at and self._is_later(value, self.after.get(new_key)):
                self.after.put(new_key, made)

    def _uncounted(self, value: bytes) -> bytes:
        made = bytearray(self.convert(value))
        for _, place in self.counts:
            made[place : place + 8] = bytes(8)
        return bytes(made)

    def _is_later(self, value: bytes, there: bytes | None) -> bool:
        if self.made_at is None or there is None:
            return False
        old, new = self.made_at
        return _u64(value, old) > _u64(there, new)

    def drain(self) -> None:
        """Move the counts of the old map into the new one. May be called again, and while programs count.
        Raises KernelError if the new map has no room."""
        if not self.counts:
            return
        drain = Drain(self.before, self.after, self.counts, per_cpu=self.before.cpus > 1)
        try:
            for key, value in self.before.items():
                for cpu in self._counted_on(value):
                    if not drain.take(key, self.key(key), cpu):
                        raise KernelError(f"map {self.name}: its rows do not fit into this version's")
        finally:
            drain.close()

    def _counted_on(self, value: bytes) -> Iterator[int]:
        size = self.before.value_size
        for cpu in range(self.before.cpus):
            if any(_u64(value, cpu * size + place) for place, _ in self.counts):
                yield cpu


def is_spare(name: str, key: bytes) -> bool:
    """True for the spare rows, which each load makes for each CPU."""
    return name == "flows" and abi.is_spare_flow(key)


def _u64(raw: bytes, place: int) -> int:
    return int.from_bytes(raw[place : place + 8], "little")


class Moves:
    """The moves of every map that exists in two shapes, in `before` and in `after`. Call close() at the
    end."""

    def __init__(self, before: Pins, after: Pins) -> None:
        self._moves: list[Move] = []
        self._opened: list[Map] = []
        widths = _widths(before), _widths(after)
        is_rehashed = before.folder == hash_of_abi_1.FOLDER
        self._hashes = hash_of_abi_1.new_hashes(before) if is_rehashed else {}
        for name in PINNED_MAPS:
            if name in ALWAYS_NEW | SCRATCH:
                continue
            with before.opened(name) as old, after.opened(name) as new:
                if old is None or new is None or bpf_map.is_same_map(old, new):
                    continue
            self._moves.append(self._open(name, before, after, widths))

    def _open(
        self, name: str, before: Pins, after: Pins, widths: tuple[dict[str, int], dict[str, int]]
    ) -> Move:
        old, new = before.open_map(name), after.open_map(name)
        self._opened += [old, new]
        rows, wanted = rows_of(old.fd), rows_of(new.fd)
        if rows is None or wanted is None:
            raise PinError(
                f"map {name} has no type information (BTF); run `licet unload` (counters restart at 0)"
            )
        key, value = conversions(name, rows, wanted)
        made_at, undecided = MADE_AT.get(name), UNDECIDED.get(name)
        names_exe = name in hash_of_abi_1.KEYED_BY_EXE
        return Move(
            name,
            old,
            new,
            key,
            value,
            tuple((_place(rows.value, field), _place(wanted.value, field)) for field in COUNTS.get(name, ())),
            (_place(rows.value, made_at), _place(wanted.value, made_at)) if made_at else None,
            (widths[0].get(name, 1), widths[1].get(name, 1)),
            bpf_map.map_info(new.fd).type in ARRAYS,
            (_place(rows.value, undecided[0]), undecided[1]) if undecided else None,
            self._hashes if names_exe else {},
            _place(rows.key, "exe") if names_exe else 0,
        )

    @property
    def names(self) -> list[str]:
        return [move.name for move in self._moves]

    def copy(self) -> None:
        """The first copy, before programs of the new version run."""
        for move in self._moves:
            if move.name not in TAKEN:
                move.copy()

    def copy_flows(self) -> None:
        """Copy the rows that no callback has copied through the bridge. The bridge must be attached."""
        for move in self._moves:
            if move.name in BY_COOKIE:
                move.copy()

    def copy_again(self) -> None:
        """Copy rows that programs have made since the first copy."""
        for move in self._moves:
            if move.name in COPIED_AGAIN:
                move.copy()

    def finish(self) -> None:
        """The last copy and drain, when no program of the old version runs any more."""
        self.copy_again()
        for move in self._moves:
            if move.name in TAKEN:
                move.take()
            move.drain()

    def bridged(self, blank: Callable[[Map], int]) -> list[Bridged]:
        return [
            Bridged(move.before.fd, move.after.fd, blank(move.after), move.convert, move.made_at)
            for move in self._moves
            if move.name in BY_COOKIE
        ]

    def close(self) -> None:
        for opened in self._opened:
            opened.close()


def _place(layout: Layout, name: str) -> int:
    return next(field.offset for field in layout.fields if field.name == name)


def _widths(pins: Pins) -> dict[str, int]:
    """For each array of SPREAD_OVER, the number of entries for one entry of the other array."""
    found = {}
    for name, of in SPREAD_OVER.items():
        with pins.opened(name) as wide, pins.opened(of) as narrow, contextlib.suppress(ZeroDivisionError):
            if wide is not None and narrow is not None:
                found[name] = bpf_map.map_info(wide).max_entries // bpf_map.map_info(narrow).max_entries
    return found
