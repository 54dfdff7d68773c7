"""Writes policy tables into BPF maps.

Each table is a map of maps with two slots. A new generation is written into new inner maps, which are put
into the slot not in force. Writing one word then switches generations, so a program sees one generation as a
whole.
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

# type, key size, value size, entries: equal to the inner maps in bpf/maps.h
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
    """The members in the tables of one generation. Late members are added after compilation."""

    def __init__(self, members: Map, sets: Map) -> None:
        self._members = members
        self._sets = sets

    def add(self, dimension: Dimension, value: int, clauses: int, free_set_id: int, flags: int = 0) -> None:
        """Add a member that became known after the tables were compiled. Raises OSError if the map is full.

        `free_set_id`: a set id that the compiled tables do not use; the caller tracks which ids are free."""
        self._sets.put(abi.U32.pack(free_set_id), encode_set(clauses))
        self._members.put(abi.MEMBER_KEY.pack(dimension, 0, value), abi.U32.pack(free_set_id | flags))

    def remove(self, dimension: Dimension, value: int) -> None:
        """Remove a member. Succeeds if it is missing."""
        self._members.remove(abi.MEMBER_KEY.pack(dimension, 0, value))

    def close(self) -> None:
        """Close the fds. The kernel holds the tables for as long as it judges by them."""
        self._members.close()
        self._sets.close()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Tables in the slot that is not in force."""

    generation: int
    ports: tuple[int, ...]
    members: Members


class PolicyMaps:
    """The pinned maps that hold the policy. Only `licet run` writes them."""

    def __init__(self, pins: Pins) -> None:
        self._outer = {name: pins.open_map(name) for name in _INNER}
        self._generation = pins.open_map("generation")
        self._ports = pins.open_map("ports")
        self._settings = pins.open_map("settings")
        self._failsafe = pins.open_map("failsafe")
        self._settings_turn = threading.Lock()
        """Serialises writers: the loop and threads change different fields of the same row, by read and
        write."""

    def close(self) -> None:
        for one in (*self._outer.values(), self._generation, self._ports, self._settings, self._failsafe):
            one.close()

    @property
    def generation(self) -> int:
        """0: no policy has ever been installed."""
        raw = self._generation.get(_ZERO)
        return int(abi.U64.unpack(raw)[0]) if raw else 0

    def prepare(self, tables: Tables) -> Prepared:
        """Do the slow part: fill the new maps and put them into the slot not in force. For each, the kernel
        waits until no program uses the old map. Before that, wait for programs that began under the
        generation before the one in force: they would see some new maps and some old ones.

        Raises OSError where a map cannot be created or filled. Nothing in force changes then."""
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
        """Switch to the tables prepared last, as a whole; return the new generation."""
        # both generations' ports during the switch; then only those in force
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
        """The random key of the name hashes, created once. It lives as long as the pins."""
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
        """`host_pidns`: inode of the host's pid namespace; 0: the kernel's initial one."""
        with self._changed_settings() as settings:
            settings.host_netns, settings.edges, settings.flow_events = host_netns, edges, flow_events
            settings.host_pidns = host_pidns

    def set_failsafe(self, ports: Iterable[int]) -> None:
        """Replace the set of failsafe ports, which are never refused."""
        self._failsafe.put_all([(abi.U32.pack(i), abi.U64.pack(w)) for i, w in enumerate(port_words(ports))])

    @property
    def gates(self) -> tuple[str, ...]:
        """The gates that set_gates() stored last, in this run or an earlier one."""
        mask = self.settings.gates
        return tuple(gate for number, gate in enumerate(abi.GATES) if mask >> number & 1)

    def set_receipts(self, attached: bool) -> None:
        """Tell the programs whether observe_receive is attached. If not, they record no peers for it."""
        with self._changed_settings() as settings:
            settings.receipts = attached

    def set_gates(self, gates: Iterable[str]) -> None:
        """Tell the programs which gates are attached. No other gate refuses, or is reported as refusing."""
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
