"""Numbers and structs of linux/bpf.h, each once. Standard library only."""

from __future__ import annotations

import struct
from enum import IntEnum

NOEXIST = 1
"""BPF_NOEXIST: only if the key is not there."""
NO_PREALLOC = 1
"""BPF_F_NO_PREALLOC."""
QUERY_EFFECTIVE = 1
"""BPF_F_QUERY_EFFECTIVE: include the programs of the cgroups above."""
STATS_RUN_TIME = 0
"""BPF_STATS_RUN_TIME."""
PSEUDO_MAP_FD = 1
"""BPF_PSEUDO_MAP_FD: the instruction loads the map of a descriptor."""
SK_PASS = 1
SOCK_OPS_STATE_CB = 10
"""BPF_SOCK_OPS_STATE_CB."""
TCP_CLOSE = 7
"""BPF_TCP_CLOSE."""
ATOMIC_ADD, ATOMIC_XCHG = 0x00, 0xE1
"""Values of an Op.ATOMIC_U64 instruction: BPF_ADD, BPF_XCHG."""


class ProgramType(IntEnum):
    """enum bpf_prog_type."""

    KPROBE = 2
    SCHED_CLS = 3
    CGROUP_SKB = 8
    SOCK_OPS = 13
    RAW_TRACEPOINT = 17
    CGROUP_SOCK_ADDR = 18
    TRACING = 26
    SK_LOOKUP = 30


class AttachType(IntEnum):
    """enum bpf_attach_type."""

    CGROUP_INET_EGRESS = 1
    CGROUP_SOCK_OPS = 3
    CGROUP_INET4_BIND = 8
    CGROUP_INET6_BIND = 9
    CGROUP_INET4_CONNECT = 10
    CGROUP_INET6_CONNECT = 11
    CGROUP_UDP4_SENDMSG = 14
    CGROUP_UDP6_SENDMSG = 15
    CGROUP_UDP4_RECVMSG = 19
    CGROUP_UDP6_RECVMSG = 20
    TRACE_FEXIT = 25
    SK_LOOKUP = 36
    PERF_EVENT = 41
    TCX_INGRESS = 46


class MapType(IntEnum):
    """enum bpf_map_type."""

    HASH = 1
    ARRAY = 2
    PROG_ARRAY = 3
    PERCPU_HASH = 5
    PERCPU_ARRAY = 6
    LRU_HASH = 9
    LRU_PERCPU_HASH = 10
    LPM_TRIE = 11
    ARRAY_OF_MAPS = 12
    HASH_OF_MAPS = 13


class Helper(IntEnum):
    """enum bpf_func_id."""

    MAP_LOOKUP = 1
    MAP_UPDATE = 2
    MAP_DELETE = 3
    TAIL_CALL = 12
    SOCKET_COOKIE = 46
    ANCESTOR_CGROUP_ID = 123
    MAP_LOOKUP_PERCPU = 195


class Op(IntEnum):
    """The opcodes of struct bpf_insn that the generated programs use (also linux/bpf_common.h)."""

    JUMP = 0x05
    ADD_VALUE = 0x07
    IF_VALUE_EQUAL = 0x15
    LOAD_64 = 0x18
    """Takes two instructions."""
    IF_MORE = 0x2D
    IF_VALUE_NOT = 0x55
    LOAD_U32 = 0x61
    STORE_VALUE_U32 = 0x62
    STORE_U32 = 0x63
    LOAD_U16 = 0x69
    STORE_U16 = 0x6B
    LOAD_U8 = 0x71
    STORE_U8 = 0x73
    LOAD_U64 = 0x79
    STORE_VALUE_U64 = 0x7A
    STORE_U64 = 0x7B
    CALL = 0x85
    EXIT = 0x95
    SET = 0xB7
    COPY = 0xBF
    ATOMIC_U64 = 0xDB


INSTRUCTION = struct.Struct("<BBhi")
"""struct bpf_insn: code, registers (source in the upper half), offset, value."""


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """One struct bpf_insn."""
    return INSTRUCTION.pack(code, source << 4 | to, offset, value)
