"""Policy tables into BPF maps, counters out of them.

Two inner maps stand behind each table. A new generation is written into inner maps of its own, which take
the slot not in force; then one word is written. A program therefore sees one generation or the other.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import threading
from array import array
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

from agent import abi
from agent.kernel.pins import Pins
from agent.kernel.tables.grace_period import wait_for_programs
from agent.kernel.tables.rows import flow_rows
from agent.kernel.uapi import NO_PREALLOC, MapType
from agent.model import Decision, Mode, Network, Origin, Reason, Verdict
from agent.policy.tables.shape import (
    ASKS_CONTAINER,
    ASKS_SUBORDINATE,
    ASKS_USER_NAMESPACE,
    MAX_PLACES,
    SET_BITS,
    Dimension,
    Numbered,
    SetId,
    SubordinateKey,
    Tables,
    TargetKey,
    TargetRow,
    Uncertain,
)
from agent.system import bpf_map
from agent.system.bpf_map import Map

_ZERO = abi.U32.pack(0)
_ELSEWHERE = abi.U32.pack(1)
"""Any value: a row of protocol 0 stands for an address, not for a target."""
_PORT_WORDS = 1024

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

_UNCERTAIN_BIT = {
    Dimension.EXE: Uncertain.EXE,
    Dimension.CGROUP: Uncertain.CGROUP,
    Dimension.NETNS: Uncertain.NETNS,
}
_DIMENSIONS = (Dimension.EXE, Dimension.UID, Dimension.GID, Dimension.CGROUP, Dimension.NETNS)


def silent_clauses(tables: Tables, dimension: Dimension) -> int:
    """Clauses that do not speak of a dimension: what a miss means, less what is uncertain about it."""
    missed = tables.sets[SetId.MISS + dimension]
    return missed & tables.sets[SetId.CERTAIN + _UNCERTAIN_BIT.get(dimension, 0)]


def encode_row(tables: Tables, row: TargetRow, silent: Mapping[Dimension, int]) -> bytes:
    principals = [tables.sets[candidate.principal] for candidate in row.candidates]
    excluded = tables.sets[row.excluded]
    relevant = excluded
    for principal in principals:
        relevant |= principal
    raw = abi.TargetRow(
        excluded=row.excluded,
        candidates=len(row.candidates),
        dimensions=sum(1 << dimension for dimension in _DIMENSIONS if relevant & ~silent[dimension])
        | _asks(tables, relevant),
        blocks=-(-relevant.bit_length() // (64 * abi.WORDS_IN_BLOCK)),
        enforce=row.mode is Mode.ENFORCE,
        unresolved=row.unresolved,
        clock_synced=row.clock_synced,
        drop=row.drops,
        gid_list=row.gid_list,
        home_netns=row.home_netns,
    )
    for place, candidate in enumerate(row.candidates):
        raw.candidate[place] = abi.Candidate(
            grant=candidate.grant,
            principal=candidate.principal,
            state=int(candidate.state),
            from_ns=candidate.from_ns,
            expires_ns=candidate.expires_ns,
            ends_ns=candidate.ends_ns,
        )
    return bytes(raw)


def _asks(tables: Tables, relevant: int) -> int:
    """What is asked of a process beside the dimensions, as bits of a row's mask."""
    of_container = relevant & (~tables.sets[SetId.IN_CONTAINER] | tables.sets[SetId.ANY_CONTAINER])
    return (
        bool(of_container) << ASKS_CONTAINER
        | bool(relevant & tables.sets[SetId.OWNED]) << ASKS_USER_NAMESPACE
        | bool(relevant & tables.sets[SetId.SUBORDINATE]) << ASKS_SUBORDINATE
    )


def encode_target_key(key: TargetKey) -> bytes:
    return abi.TARGET_KEY.pack(
        abi.TARGET_KEY_FIXED_BITS + key.network.prefixlen,
        key.protocol,
        key.ports,
        key.netns,
        key.network.network_address.packed,
    )


def encode_subordinate_key(key: SubordinateKey) -> bytes:
    bits = abi.SUBORDINATE_KEY_FIXED_BITS + key.prefixlen
    return abi.SUBORDINATE_KEY.pack(bits, key.dimension, key.first.to_bytes(4, "big"))


def encode_numbers(numbers: Iterable[Numbered]) -> bytes:
    by_port = array("H", bytes(ct.sizeof(abi.PortNumbers)))
    for one in numbers:
        by_port[one.first : one.last + 1] = array("H", [one.number]) * (one.last + 1 - one.first)
    return by_port.tobytes()


def encode_set(clauses: int) -> bytes:
    return clauses.to_bytes(SET_BITS // 8, "little")


def encode_tables(tables: Tables) -> dict[str, list[tuple[bytes, bytes]]]:
    """Key and value bytes of every entry, by table."""
    silent = {dimension: silent_clauses(tables, dimension) for dimension in _DIMENSIONS}
    return {
        "sets": [(abi.U32.pack(i), encode_set(clauses)) for i, clauses in enumerate(tables.sets)],
        "rows": [
            *((abi.U32.pack(i), encode_row(tables, row, silent)) for i, row in tables.rows.items()),
            *(
                (abi.U32.pack(i | abi.OWNERS_OF), encode_row(tables, o, silent))
                for i, o in tables.owners.items()
            ),
        ],
        "members": [
            (abi.MEMBER_KEY.pack(dimension, 0, value), abi.U32.pack(set_id))
            for (dimension, value), set_id in tables.members.items()
        ],
        "sources": [
            (
                abi.SOURCE_KEY.pack(network.prefixlen, network.network_address.packed),
                abi.U32.pack(set_id),
            )
            for network, set_id in tables.sources.items()
        ],
        "subordinates": [
            (encode_subordinate_key(key), abi.U32.pack(set_id)) for key, set_id in tables.subordinates.items()
        ],
        "port_numbers": [(_ZERO, encode_numbers(tables.numbers))],
        "targets": [
            *((encode_target_key(key), abi.U32.pack(target)) for key, target in tables.targets.items()),
            *(
                (encode_target_key(TargetKey(netns, 0, 0, Network((int(address), 128)))), _ELSEWHERE)
                for netns, address in tables.elsewhere
            ),
        ],
    }


def _port_words(ports: Iterable[int]) -> list[int]:
    words = [0] * _PORT_WORDS
    for port in ports:
        words[port >> 6] |= 1 << (port & 63)
    return words


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
        return Prepared(following, tuple(_port_words(tables.ports)), members)

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
        self._failsafe.put_all([(abi.U32.pack(i), abi.U64.pack(w)) for i, w in enumerate(_port_words(ports))])

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


@dataclass(frozen=True, slots=True)
class Attempts:
    """How many attempts met one end."""

    target: int
    decision: Decision
    reason: Reason
    origin: Origin
    count: int


class Counters:
    """The counting side: reads only, but for rows that have been idle."""

    def __init__(self, pins: Pins) -> None:
        self._counts = pins.open_map("counts")
        self._flow_counts = pins.open_map("flow_counts")
        self._found_flows = pins.open_map("found_flows")
        self._unprotected = pins.open_map("unprotected")
        self._losses = pins.open_map("losses")
        self._refused = pins.open_map("refused")
        self._misled = pins.open_map("misled")
        self.modes = pins.open_map("modes")
        self.uses = pins.open_map("uses")
        self.told = pins.open_map("told")
        self.flows = pins.open_map("flows")
        self.tuples = pins.open_map("tuples")
        self.acceptors = pins.open_map("acceptors")
        self.edges = pins.open_map("edges")
        self.names = pins.open_map("names")
        self.owners = pins.open_map("owners")
        self.more_strangers = pins.open_map("more_strangers")
        self.more_owners = pins.open_map("more_owners")
        self.crowded = pins.open_map("crowded")
        self.socket_owners = pins.open_map("socket_owners")
        self.ring = pins.open_map("ring")
        self.bulk = pins.open_map("bulk")
        self._use_counts = pins.open_map("use_counts")
        self.senders = pins.open_map("senders")
        self.sents = pins.open_map("sents")
        self.peers = pins.open_map("peers")
        self._datagram_rows = pins.open_map("datagram_rows")
        self._most_unprotected: dict[str, int] = {}
        self._noted_uses: frozenset[int] | None = None
        """Places of use_counts that may not be zero; None: any."""

    def close(self) -> None:
        for one in vars(self).values():
            if isinstance(one, Map):
                one.close()

    def attempts(self) -> Iterator[Attempts]:
        for key, value in self._counts.items():
            raw = abi.CountKey.from_buffer_copy(key)
            yield Attempts(
                target=raw.target,
                decision=Decision(raw.decision),
                reason=Reason(raw.reason),
                origin=Origin(raw.origin),
                count=_sum(value),
            )

    def count_found(self, verdict: Verdict, origin: Origin) -> None:
        """Count one attempt that no program saw: a connection from before the agent. Its row has no
        protocol, so that no program adds to it while it is written."""
        key = bytes(
            abi.CountKey(
                target=verdict.target, decision=verdict.decision, reason=verdict.reason, origin=origin
            )
        )
        before = _sum(self._counts.get(key) or b"")
        values = [before + 1] + [0] * (self._counts.cpus - 1)
        self._counts.put(key, b"".join(abi.U64.pack(value) for value in values))

    def count_found_flows(self, target: int, *, opened: int = 0, closed: int = 0) -> None:
        """Count flows of a target whose opening, or close, no program saw."""
        before = self._found(target)
        self._found_flows.put(
            abi.U32.pack(target), abi.FLOW_COUNT.pack(before[0] + opened, before[1] + closed)
        )

    def _found(self, target: int) -> tuple[int, int]:
        value = self._found_flows.get(abi.U32.pack(target))
        opened, closed = abi.FLOW_COUNT.unpack(value) if value else (0, 0)
        return opened, closed

    def opened_closed(self, targets: Iterable[int]) -> dict[int, tuple[int, int]]:
        """(opened, closed) flows by target id, whoever saw it."""
        found = {}
        for target in targets:
            value = self._flow_counts.get(abi.U32.pack(target)) or b""
            pairs = [*abi.FLOW_COUNT.iter_unpack(value), self._found(target)]
            found[target] = (sum(opened for opened, _ in pairs), sum(closed for _, closed in pairs))
        return found

    def closed_unseen(self, targets: Iterable[int]) -> int:
        """Flows of these targets whose close only reconciliation found."""
        return sum(self._found(target)[1] for target in targets)

    def refusals(self, targets: Iterable[int]) -> dict[tuple[int, str], int]:
        """By target id and gate; all gates of each target, zeros included."""
        return {
            (target, gate): _sum(self._refused.get(abi.U32.pack(target * len(abi.GATES) + place)) or b"")
            for target in targets
            for place, gate in enumerate(abi.GATES)
        }

    def misled(self, targets: Iterable[int]) -> dict[int, int]:
        """By target id: consumers refused because a stranger listens where they go; those of them that are
        not zero."""
        found = {target: _sum(self._misled.get(abi.U32.pack(target)) or b"") for target in targets}
        return {target: count for target, count in found.items() if count}

    def noted_uses(self) -> Counter[int]:
        """How many rows of uses there are, by place in use_counts: what note_uses() said, and what programs
        have added since."""
        pairs = ((key, abi.U64.unpack(value)[0]) for key, value in self._use_counts.items())
        return Counter({abi.U32.unpack(key)[0]: count for key, count in pairs if count})

    def note_uses(self, rows: Mapping[int, int], since: Mapping[int, int] | None = None) -> None:
        """How many rows of uses there are, by place in use_counts; 0 where all were let go of. `since`: what
        noted_uses() was when `rows` were counted; rows that programs have made after that come on top."""
        made = Counter() if since is None else self.noted_uses() - Counter(since)
        now = {place: rows.get(place, 0) + made[place] for place in {*rows, *made}}
        before = range(self._use_counts.max_entries) if self._noted_uses is None else self._noted_uses
        places = {*before, *now}
        self._use_counts.put_all([(abi.U32.pack(one), abi.U64.pack(now.get(one, 0))) for one in places])
        self._noted_uses = frozenset(place for place, count in now.items() if count)

    def active(self) -> Counter[int]:
        """Established flows by target id."""
        state, target = abi.Flow.state.offset, abi.Flow.verdict.offset  # target is a verdict's first field
        found: Counter[int] = Counter()
        for _, raw in flow_rows(self.flows):
            if raw[state] == abi.FlowState.OPEN:
                found[abi.U32.unpack_from(raw, target)[0]] += 1
        return found

    def unprotected(self) -> dict[str, int]:
        """By direction; never less than before, though a connect() that turns out to be an attempt is taken
        out again."""
        for direction, count in self._array(self._unprotected, abi.DIRECTIONS).items():
            self._most_unprotected[direction] = max(count, self._most_unprotected.get(direction, 0))
        return dict(self._most_unprotected)

    def losses(self) -> dict[str, int]:
        return self._array(self._losses, abi.LOSSES)

    def datagram_rows(self) -> tuple[int, ...]:
        """How many rows were made in senders, sents and peers."""
        return tuple(self._array(self._datagram_rows, ("senders", "sents", "peers")).values())

    @staticmethod
    def _array(array: Map, names: tuple[str, ...]) -> dict[str, int]:
        return {name: _sum(array.get(abi.U32.pack(i)) or b"") for i, name in enumerate(names)}


def _sum(per_cpu: bytes) -> int:
    """What one CPU has counted, another may have taken back."""
    total = sum(int(value) for (value,) in abi.U64.iter_unpack(per_cpu))
    return total & (1 << 64) - 1
