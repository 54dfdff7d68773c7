"""Policy tables into BPF maps.

Two inner maps stand behind each table. A new generation is written into inner maps of its own, which take
the slot not in force; then one word is written. A program therefore sees one generation or the other.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent import abi
from agent.kernel.pins import Pins
from agent.kernel.tables.encode import encode_set, encode_tables, port_words
from agent.kernel.tables.grace_period import wait_for_programs
from agent.kernel.uapi import NO_PREALLOC, MapType
from agent.policy.tables.shape import (
    MAX_PLACES,
    SET_BITS,
    Dimension,
    Tables,
)
from agent.system import bpf_map
from agent.system.bpf_map import Map

_ZERO = abi.U32.pack(0)

# type, key size, value size, entries: as the inner maps in bpf/maps.h
_INNER = {
    "targets": (MapType.LPM_TRIE, abi.TARGET_KEY.size, 4, MAX_PLACES),
    "port_numbers": (MapType.ARRAY, 4, ct.sizeof(abi.PortNumbers), 1),
    "sources": (MapType.LPM_TRIE, abi.SOURCE_KEY.size, 4, 262144),
    "subordinates": (MapType.LPM_TRIE, abi.SUBORDINATE_KEY.size, 4, 262144),
    "rows": (MapType.HASH, 4, ct.sizeof(abi.TargetRow), 2 * abi.MAX_TARGETS),
    "members": (MapType.HASH, abi.MEMBER_KEY.size, 4, 262144),
    "sets": (MapType.ARRAY, 4, SET_BITS // 8, 16384),
}


class Members:
    """Who is named in the tables of one generation. Names arrive later, too."""

    def __init__(self, members: Map, sets: Map) -> None:
        self._members = members
        self._sets = sets

    def add(self, dimension: Dimension, value: int, clauses: int, free_set_id: int, flags: int = 0) -> None:
        """One that became known after the tables were compiled. Raises OSError where there is no room.

        `free_set_id` is one the compiled tables do not use; the caller keeps count of them."""
        self._sets.put(abi.U32.pack(free_set_id), encode_set(clauses))
        self._members.put(abi.MEMBER_KEY.pack(dimension, 0, value), abi.U32.pack(free_set_id | flags))

    def remove(self, dimension: Dimension, value: int) -> None:
        """Fine if it is not there."""
        self._members.remove(abi.MEMBER_KEY.pack(dimension, 0, value))

    def close(self) -> None:
        """The kernel keeps the tables for as long as it judges by them."""
        self._members.close()
        self._sets.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tables in the slot that is not in force."""

    generation: int
    ports: tuple[int, ...]
    members: Members


class PolicyMaps:
    """The policy side of the pinned maps; licet run is the only writer."""

    def __init__(self, pins: Pins) -> None:
        self._outer = {name: pins.open_map(name) for name in _INNER}
        self._generation = pins.open_map("generation")
        self._ports = pins.open_map("ports")
        self._settings = pins.open_map("settings")
        self._failsafe = pins.open_map("failsafe")
        self._settings_turn = threading.Lock()
        """The loop and threads change different fields of the one row: each reads it and writes it back."""

    def close(self) -> None:
        for one in (*self._outer.values(), self._generation, self._ports, self._settings, self._failsafe):
            one.close()

    @property
    def generation(self) -> int:
        """0: no policy has ever been installed."""
        raw = self._generation.get(_ZERO)
        return int(abi.U64.unpack(raw)[0]) if raw else 0

    def prepare(self, tables: Tables) -> Prepared:
        """Everything that takes time: fill maps, and let the kernel take them (it waits for each until no
        program has the old one any more). First for programs that began under the generation before: these
        would meet some of the new maps and some of the old.

        Raises OSError, and changes nothing in force, where a map can't be made or filled."""
        following = self.generation + 1
        filled: dict[str, Map] = {}
        try:
            for name, pairs in encode_tables(tables).items():
                filled[name] = _filled(name, pairs)
            wait_for_programs()
            slot = abi.U32.pack(following & 1)
            for name, inner in filled.items():
                self._outer[name].put(slot, abi.U32.pack(inner.fd))
        except OSError:
            for inner in filled.values():
                inner.close()
            raise
        members = Members(filled.pop("members"), filled.pop("sets"))
        for inner in filled.values():
            inner.close()
        return Prepared(following, tuple(port_words(tables.ports)), members)

    def put_in_force(self, prepared: Prepared) -> int:
        """Make what was prepared last what is judged by, at once; the new generation."""
        # ports of both generations while they change places; then those in force
        self._put_ports([old | new for old, new in zip(self._ports_now(), prepared.ports, strict=True)])
        self._generation.put(_ZERO, abi.U64.pack(prepared.generation))
        self._put_ports(prepared.ports)
        return prepared.generation

    def _ports_now(self) -> list[int]:
        return [abi.U64.unpack(value)[0] for _, value in sorted(self._ports.items(), key=_array_index)]

    def _put_ports(self, words: Iterable[int]) -> None:
        self._ports.put_all([(abi.U32.pack(i), abi.U64.pack(word)) for i, word in enumerate(words)])

    @property
    def settings(self) -> abi.Settings:
        return abi.Settings.from_buffer_copy(self._settings.get(_ZERO) or bytes(ct.sizeof(abi.Settings)))

    def ensure_seed(self) -> int:
        """The key of the name hashes: drawn once, for as long as the pins live."""
        with self._changed_settings() as settings:
            settings.seed = settings.seed or int.from_bytes(os.urandom(8), "little") & ~1 or 2
            return int(settings.seed)

    @contextlib.contextmanager
    def _changed_settings(self) -> Iterator[abi.Settings]:
        with self._settings_turn:
            settings = self.settings
            before = bytes(settings)
            yield settings
            if bytes(settings) != before:
                self._settings.put(_ZERO, bytes(settings))

    def tune(self, *, host_netns: int, edges: bool, flow_events: bool, host_pidns: int = 0) -> None:
        """host_pidns: inode of the host's pid namespace; 0: the kernel's first one."""
        with self._changed_settings() as settings:
            settings.host_netns, settings.edges, settings.flow_events = host_netns, edges, flow_events
            settings.host_pidns = host_pidns

    def set_failsafe(self, ports: Iterable[int]) -> None:
        """Ports that are never refused; these, and no others."""
        self._failsafe.put_all([(abi.U32.pack(i), abi.U64.pack(w)) for i, w in enumerate(port_words(ports))])

    @property
    def gates(self) -> tuple[str, ...]:
        """What set_gates() said last, in this run or an earlier one."""
        mask = self.settings.gates
        return tuple(gate for number, gate in enumerate(abi.GATES) if mask >> number & 1)

    def set_receipts(self, attached: bool) -> None:
        """Say whether observe_receive is attached: else no peer is noted for it."""
        with self._changed_settings() as settings:
            settings.receipts = attached

    def set_gates(self, gates: Iterable[str]) -> None:
        """Say which gates are attached: nothing is refused, or called refused, by any other."""
        with self._changed_settings() as settings:
            settings.gates = sum(1 << abi.GATES.index(gate) for gate in set(gates))


def _filled(name: str, pairs: list[tuple[bytes, bytes]]) -> Map:
    kind, key_size, value_size, entries = _INNER[name]
    flags = 0 if kind == MapType.ARRAY else NO_PREALLOC
    inner = Map.from_fd(bpf_map.map_create(kind, f"{name}_inner", key_size, value_size, entries, flags), name)
    try:
        inner.put_all(pairs)
    except OSError:
        inner.close()
        raise
    return inner


def _array_index(pair: tuple[bytes, bytes]) -> int:
    return int.from_bytes(pair[0], "little")
