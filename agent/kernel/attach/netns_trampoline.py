"""A trampoline for each network namespace: stores the namespace's cookie, then calls the socket gate.

An sk_lookup program cannot find out its namespace, but the meaning of 127.0.0.1 or fe80::1 depends on the
namespace. A trampoline has 15 instructions, made without a compiler, that contain the namespace's cookie.
It stores the cookie in a per-CPU cell. No other program of this hook runs on that CPU before the gate has
read the cell.
"""

from __future__ import annotations

import struct

from agent.kernel.uapi import PSEUDO_MAP_FD, SK_PASS, AttachType, Helper, Op, ProgramType, instruction
from agent.system import libbpf

_R0, _R1, _R2, _R3, _R6, _R10 = 0, 1, 2, 3, 6, 10


def load_trampoline(cookie: int, note: int, calls: int) -> int:
    """The program's fd. `note` and `calls`: fds of maps lookup_netns and lookup_calls. Raises OSError."""
    code = [
        instruction(Op.COPY, _R6, _R1),  # r6 = context
        instruction(Op.STORE_VALUE_U32, _R10, offset=-4),  # key 0, on the stack
        *_wide(_R1, note, PSEUDO_MAP_FD),
        instruction(Op.COPY, _R2, _R10),
        instruction(Op.ADD_VALUE, _R2, value=-4),
        instruction(Op.CALL, value=Helper.MAP_LOOKUP),
        instruction(Op.IF_VALUE_EQUAL, _R0, offset=8),  # no cell: to the end
        *_wide(_R1, cookie),
        instruction(Op.STORE_U64, _R0, _R1),  # *cell = cookie
        instruction(Op.COPY, _R1, _R6),
        *_wide(_R2, calls, PSEUDO_MAP_FD),
        instruction(Op.SET, _R3),
        instruction(Op.CALL, value=Helper.TAIL_CALL),
        instruction(Op.SET, _R0, value=SK_PASS),  # reached if the gate is not loaded
        instruction(Op.EXIT),
    ]
    return libbpf.load_program("licet_lookup", ProgramType.SK_LOOKUP, b"".join(code), AttachType.SK_LOOKUP)


def _wide(to: int, value: int, source: int = 0) -> tuple[bytes, bytes]:
    """Load a 64-bit constant, or with `source` the object that it stands for."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return instruction(Op.LOAD_64, to, source, value=low), instruction(0, value=high)
