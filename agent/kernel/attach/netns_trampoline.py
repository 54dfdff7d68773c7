"""A small program for each network namespace: notes which one it is, and calls the socket gate.

An sk_lookup program is not told where it runs, and what 127.0.0.1 or fe80::1 means depends on it. So what is
attached in a namespace is this: 15 instructions with the namespace's cookie in them, made without a compiler.
The note is a per-CPU cell; nothing else of this hook runs on that CPU before the gate has read it.
"""

from __future__ import annotations

import struct

from agent.system import libbpf
from agent.system.libbpf import instruction

SK_LOOKUP, ATTACH_SK_LOOKUP = 30, 36
"""enum bpf_prog_type, enum bpf_attach_type"""

_PASS = 1
_LOOK_UP, _TAIL_CALL = 1, 12  # enum bpf_func_id
_R0, _R1, _R2, _R3, _R6, _R10 = 0, 1, 2, 3, 6, 10
_MAP_FD = 1  # BPF_PSEUDO_MAP_FD


def load_trampoline(cookie: int, note: int, calls: int) -> int:
    """The program's fd; `note` and `calls` are of maps lookup_netns and lookup_calls. Raises OSError."""
    code = [
        instruction(0xBF, _R6, _R1),  # r6 = context
        instruction(0x62, _R10, offset=-4),  # key 0, on the stack
        *_wide(_R1, note, _MAP_FD),
        instruction(0xBF, _R2, _R10),
        instruction(0x07, _R2, value=-4),
        instruction(0x85, value=_LOOK_UP),
        instruction(0x15, _R0, offset=8),  # no cell: to the end
        *_wide(_R1, cookie),
        instruction(0x7B, _R0, _R1),  # *cell = cookie
        instruction(0xBF, _R1, _R6),
        *_wide(_R2, calls, _MAP_FD),
        instruction(0xB7, _R3),
        instruction(0x85, value=_TAIL_CALL),
        instruction(0xB7, _R0, value=_PASS),  # where the gate is not loaded
        instruction(0x95),
    ]
    return libbpf.load_program("licet_lookup", SK_LOOKUP, b"".join(code), ATTACH_SK_LOOKUP)


def _wide(to: int, value: int, source: int = 0) -> tuple[bytes, bytes]:
    """A constant of 64 bits, or what it stands for."""
    low, high = struct.unpack("<ii", struct.pack("<Q", value))
    return instruction(0x18, to, source, value=low), instruction(0, value=high)
