"""Small programs, made without a compiler, that move rows and counts from an old map to a new one. Other
programs go on using both maps meanwhile.

A bridge runs before the new flow tracker while programs of the old version still judge connections. Those
programs write their rows into the old map. At each callback of a socket, the bridge first copies the socket's
row into the new map. When a socket closes, the bridge deletes the old row. So each row left in the old map
belongs to an open socket.

A drain adds the counts of an old row to the new row and resets the old ones, in one program run. So each
count is in exactly one of the rows, even if the agent's process dies. Other programs may go on counting in
both."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from agent.kernel.tables.layouts import Conversion
from agent.kernel.uapi import (
    ATOMIC_ADD,
    ATOMIC_XCHG,
    INSTRUCTION,
    NOEXIST,
    PSEUDO_MAP_FD,
    SOCK_OPS_STATE_CB,
    TCP_CLOSE,
    AttachType,
    Helper,
    MapType,
    Op,
    ProgramType,
    instruction,
)
from agent.system import bpf_map, libbpf

FULL = 2
"""The result of a drain if the new map has no room for another row."""

_OP, _NEW_STATE = 0, 8  # of struct bpf_sock_ops
_R0, _R1, _R2, _R3, _R4, _R6, _R7, _R8, _R10 = 0, 1, 2, 3, 4, 6, 7, 8, 10
_LOAD = {8: Op.LOAD_U64, 4: Op.LOAD_U32, 2: Op.LOAD_U16, 1: Op.LOAD_U8}
_STORE = {8: Op.STORE_U64, 4: Op.STORE_U32, 2: Op.STORE_U16, 1: Op.STORE_U8}
_KEY, _ZERO = -8, -16
"""Stack offsets of the cookie, and of the key of an array's only row."""


@dataclass(frozen=True, slots=True)
class Bridged:
    """A map keyed by socket cookie, and the map that replaces it."""

    before: int
    after: int
    blank: int
    """An array that holds one zeroed row of `after`."""
    value: Conversion
    newer: tuple[int, int] | None
    """Offsets of the creation time, before and after. Of two rows for one cookie, the later one wins."""


class _Assembler:
    def __init__(self) -> None:
        self._code: list[bytes] = []
        self._jumps: list[tuple[int, str]] = []
        self._labels: dict[str, int] = {}

    def do(self, code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> None:
        self._code.append(instruction(code, to, source, offset, value))

    def map(self, to: int, fd: int) -> None:
        self.do(Op.LOAD_64, to, PSEUDO_MAP_FD, value=fd)
        self.do(0)

    def call(self, helper: int) -> None:
        self.do(Op.CALL, value=helper)

    def jump(self, label: str, code: int = Op.JUMP, to: int = 0, source: int = 0, value: int = 0) -> None:
        self._jumps.append((len(self._code), label))
        self.do(code, to, source, value=value)

    def label(self, label: str) -> None:
        self._labels[label] = len(self._code)

    def at(self, to: int, base: int, offset: int) -> None:
        """to = base + offset"""
        self.do(Op.COPY, to, base)
        self.do(Op.ADD_VALUE, to, value=offset)

    def bytes(self) -> bytes:
        code = list(self._code)
        for place, label in self._jumps:
            op, registers, _, value = INSTRUCTION.unpack(code[place])
            code[place] = INSTRUCTION.pack(op, registers, self._labels[label] - place - 1, value)
        return b"".join(code)


def load_bridge(tables: Sequence[Bridged], calls: int) -> int:
    """The fd of a sockops program that tail-calls the program in `calls`. Raises OSError."""
    code = _Assembler()
    code.do(Op.COPY, _R6, _R1)
    code.call(Helper.SOCKET_COOKIE)
    code.do(Op.STORE_U64, _R10, _R0, _KEY)
    code.do(Op.STORE_VALUE_U64, _R10, offset=_ZERO)
    for number, table in enumerate(tables):
        _bring_over(code, table, f"{number}")
    code.do(Op.COPY, _R1, _R6)
    code.map(_R2, calls)
    code.do(Op.SET, _R3)
    code.call(Helper.TAIL_CALL)
    code.do(Op.SET, _R0, value=1)
    code.do(Op.EXIT)
    return libbpf.load_program("licet_bridge", ProgramType.SOCK_OPS, code.bytes(), AttachType.CGROUP_SOCK_OPS)


def _bring_over(code: _Assembler, table: Bridged, number: str) -> None:
    make, fill, brought, done = (f"{number} {name}" for name in ("make", "fill", "brought", "done"))
    _look_up(code, table.before)
    code.jump(done, Op.IF_VALUE_EQUAL, _R0)
    code.do(Op.COPY, _R7, _R0)
    _look_up(code, table.after)
    code.jump(make, Op.IF_VALUE_EQUAL, _R0)
    if table.newer:
        code.do(_LOAD[8], _R1, _R7, table.newer[0])
        code.do(_LOAD[8], _R2, _R0, table.newer[1])
        code.jump(fill, Op.IF_MORE, _R1, _R2)
    code.jump(brought)
    code.label(make)
    _look_up(code, table.blank, _ZERO)
    code.jump(done, Op.IF_VALUE_EQUAL, _R0)
    code.do(Op.COPY, _R3, _R0)
    code.map(_R1, table.after)
    code.at(_R2, _R10, _KEY)
    code.do(Op.SET, _R4, value=NOEXIST)
    code.call(Helper.MAP_UPDATE)
    _look_up(code, table.after)
    code.jump(done, Op.IF_VALUE_EQUAL, _R0)
    code.label(fill)
    for start, to, size in _steps(table.value):
        code.do(_LOAD[size], _R1, _R7, start)
        code.do(_STORE[size], _R0, _R1, to)
    code.label(brought)
    code.do(_LOAD[4], _R1, _R6, _OP)
    code.jump(done, Op.IF_VALUE_NOT, _R1, value=SOCK_OPS_STATE_CB)
    code.do(_LOAD[4], _R1, _R6, _NEW_STATE)
    code.jump(done, Op.IF_VALUE_NOT, _R1, value=TCP_CLOSE)
    code.map(_R1, table.before)
    code.at(_R2, _R10, _KEY)
    code.call(Helper.MAP_DELETE)
    code.label(done)


def _look_up(code: _Assembler, table: int, key: int = _KEY) -> None:
    code.map(_R1, table)
    code.at(_R2, _R10, key)
    code.call(Helper.MAP_LOOKUP)


def _steps(value: Conversion) -> Iterator[tuple[int, int, int]]:
    """Split the moves into pieces that are aligned in source and destination."""
    for start, to, size in value.moves:
        done = 0
        while done < size:
            piece = next(
                n for n in (8, 4, 2, 1) if not ((start + done) % n or (to + done) % n) and n <= size - done
            )
            yield start + done, to + done, piece
            done += piece


class Drain:
    """The drain of one map. `counts`: offsets of the 64-bit counts, before and after. `per_cpu`: true if
    `before` is a per-CPU map."""

    def __init__(
        self, before: bpf_map.Map, after: bpf_map.Map, counts: Sequence[tuple[int, int]], *, per_cpu: bool
    ) -> None:
        self._key = _rounded(before.key_size)
        self._new_key = _rounded(after.key_size)
        blank = bytes(_rounded(after.value_size))
        self._blank = blank
        size = self._key + self._new_key + len(blank) + 8
        self._said = bpf_map.Map.from_fd(
            bpf_map.map_create(MapType.ARRAY, "licet_drain", 4, size, 1), "licet_drain"
        )
        try:
            self._program = libbpf.load_program(
                "licet_drain", ProgramType.SCHED_CLS, self._code(before, after, counts, per_cpu)
            )
        except OSError:
            self._said.close()
            raise

    def _code(
        self, before: bpf_map.Map, after: bpf_map.Map, counts: Sequence[tuple[int, int]], per_cpu: bool
    ) -> bytes:
        new_key, blank = self._key, self._key + self._new_key
        code = _Assembler()
        code.do(Op.STORE_VALUE_U64, _R10, offset=_KEY)
        _look_up(code, self._said.fd)
        code.jump("nothing", Op.IF_VALUE_EQUAL, _R0)
        code.do(Op.COPY, _R6, _R0)
        code.map(_R1, before.fd)
        code.do(Op.COPY, _R2, _R6)
        if per_cpu:
            code.do(_LOAD[4], _R3, _R6, blank + len(self._blank))
        code.call(Helper.MAP_LOOKUP_PERCPU if per_cpu else Helper.MAP_LOOKUP)
        code.jump("nothing", Op.IF_VALUE_EQUAL, _R0)
        code.do(Op.COPY, _R7, _R0)
        self._find(code, after, new_key)
        code.jump("there", Op.IF_VALUE_NOT, _R0)
        code.map(_R1, after.fd)
        code.at(_R2, _R6, new_key)
        code.at(_R3, _R6, blank)
        code.do(Op.SET, _R4, value=NOEXIST)
        code.call(Helper.MAP_UPDATE)
        self._find(code, after, new_key)
        code.jump("there", Op.IF_VALUE_NOT, _R0)
        code.do(Op.SET, _R0, value=FULL)
        code.do(Op.EXIT)
        code.label("there")
        code.do(Op.COPY, _R8, _R0)
        for start, to in counts:
            code.do(Op.SET, _R1)
            code.do(Op.ATOMIC_U64, _R7, _R1, start, ATOMIC_XCHG)
            code.do(Op.ATOMIC_U64, _R8, _R1, to, ATOMIC_ADD)
        code.label("nothing")
        code.do(Op.SET, _R0)
        code.do(Op.EXIT)
        return code.bytes()

    @staticmethod
    def _find(code: _Assembler, table: bpf_map.Map, key: int) -> None:
        code.map(_R1, table.fd)
        code.at(_R2, _R6, key)
        code.call(Helper.MAP_LOOKUP)

    def take(self, key: bytes, new_key: bytes, cpu: int = 0) -> bool:
        """Drain one row. False: the new map has no room for another row. Raises OSError."""
        said = key.ljust(self._key, b"\0") + new_key.ljust(self._new_key, b"\0") + self._blank
        self._said.put(bytes(4), said + struct.pack("<II", cpu, 0))
        return libbpf.run_program(self._program)[0] != FULL

    def close(self) -> None:
        os.close(self._program)
        self._said.close()


def _rounded(size: int) -> int:
    return (size + 7) // 8 * 8
