"""bpf/abi.h in Python: every struct that crosses, field by field. tests/kernel/test_abi.py compiles the
header and holds sizes and offsets together. Names are the header's, in CamelCase for structs."""

from __future__ import annotations

import ctypes as ct
import struct
from enum import IntEnum

from agent.model import Address

SET_WORDS = 16
WORDS_IN_BLOCK = 4
CANDIDATES = 8
MAX_TARGETS = 4096
OWNERS_OF = 0x10000
PATH_COMPONENTS = 24
COMPONENT_BYTES = 96
ARGS_BYTES = 256
EVENT_GROUPS = 16
CGROUP_BYTES = 256
EXE_NAME_BYTES = 252

EXE_UNTRUSTED = 1
SPARE_FLOW = 1 << 63

LOSSES = (
    "ring_full",
    "flows_full",
    "uses_full",
    "counts_full",
    "tuples",
    "identity",
    "groups",
    "cgroups",
    "path",
    "state_cb",
    "no_row",
    "storage",
    "refusals",
)
"""Names of enum loss, in its order: label values of licet_events_lost_total{cause}."""

DIRECTIONS = ("outbound", "inbound")
GATES = ("connect", "tc", "socket", "bind")
"""Names of enum gate, in its order: label values of licet_refused_total{gate}."""
NEVER_NS = 2**64 - 1
"""When a mode ends that does not."""


class EventType(IntEnum):
    USE = 1
    NAME = 2
    LISTEN = 3
    OPEN = 4
    CLOSE = 5
    CGROUP = 6
    BIND = 7


class Override(IntEnum):
    NONE = 0
    OBSERVE = 1
    ENFORCE = 2


class FlowState(IntEnum):
    ATTEMPT = 0
    SYN = 1
    OPEN = 2
    SPARE = 3


u8, u16, u32, u64, i32 = ct.c_uint8, ct.c_uint16, ct.c_uint32, ct.c_uint64, ct.c_int32


class RawAddress(ct.Structure):
    _fields_ = [("w", u32 * 4)]

    @classmethod
    def of(cls, address: Address) -> RawAddress:
        return cls.from_buffer_copy(address.packed)

    def value(self) -> Address:
        return Address(bytes(self))


class Settings(ct.Structure):
    _fields_ = [
        ("seed", u64),
        ("host_netns", u64),
        ("edges", u32),
        ("flow_events", u32),
        ("gates", u32),
        ("pad", u32),
    ]


class RawMode(ct.Structure):
    _fields_ = [("until_ns", u64), ("override", u32), ("pad", u32)]


class Candidate(ct.Structure):
    _fields_ = [
        ("grant", u32),
        ("principal", u32),
        ("state", u32),
        ("pad", u32),
        ("from_ns", u64),
        ("expires_ns", u64),
        ("ends_ns", u64),
    ]


class TargetRow(ct.Structure):
    _fields_ = [
        ("excluded", u32),
        ("candidates", u32),
        ("dimensions", u32),
        ("blocks", u32),
        ("enforce", u8),
        ("unresolved_allowed", u8),
        ("clock_synced", u8),
        ("drop", u8),
        ("pad", u8 * 4),
        ("home_netns", u64),
        ("candidate", Candidate * CANDIDATES),
    ]


class Identity(ct.Structure):
    _fields_ = [
        ("start_ns", u64),
        ("exe", u64),
        ("cgroup", u64),
        ("netns", u64),
        ("pid", u32),
        ("uid", u32),
        ("gid", u32),
        ("pad", u32),
    ]


class Verdict(ct.Structure):
    _fields_ = [
        ("target", u32),
        ("grant", u32),
        ("decision", u8),
        ("reason", u8),
        ("enforced", u8),
        ("uncertain", u8),
        ("origin", u8),
        ("protocol", u8),
        ("pad", u8 * 2),
    ]


class Flow(ct.Structure):
    _fields_ = [
        ("opened_ns", u64),
        ("server_cookie", u64),
        ("consumer", Identity),
        ("owner", Identity),
        ("acceptor_start_ns", u64),
        ("acceptor_exe", u64),
        ("acceptor_pid", u32),
        ("state", u8),
        ("pre_existing", u8),
        ("pad", u8 * 2),
        ("verdict", Verdict),
        ("local", RawAddress),
        ("remote", RawAddress),
        ("local_port", u16),
        ("remote_port", u16),
        ("pad2", u32),
        ("clauses", u64 * SET_WORDS),
    ]


class OwnerKey(ct.Structure):
    _fields_ = [("netns", u64), ("address", RawAddress), ("port", u16), ("pad", u16 * 3)]


class ListenerOwner(ct.Structure):
    _fields_ = [("since_ns", u64), ("process", Identity)]


class CountKey(ct.Structure):
    _fields_ = [("target", u32), ("decision", u8), ("reason", u8), ("origin", u8), ("protocol", u8)]


class UseKey(ct.Structure):
    _fields_ = [
        ("exe", u64),
        ("cgroup", u64),
        ("target", u32),
        ("uid", u32),
        ("decision", u8),
        ("reason", u8),
        ("origin", u8),
        ("protocol", u8),
        ("enforced", u8),
        ("pad", u8 * 3),
        ("source", RawAddress),
    ]


class Use(ct.Structure):
    _fields_ = [
        ("attempts", u64),
        ("first_ns", u64),
        ("last_ns", u64),
        ("first", Identity),
        ("verdict", Verdict),
        ("source", RawAddress),
        ("destination", RawAddress),
        ("source_port", u16),
        ("port", u16),
        ("told", u32),
        ("comm", ct.c_char * 16),
    ]


class AcceptorKey(ct.Structure):
    _fields_ = [("start_ns", u64), ("exe", u64), ("target", u32), ("pid", u32)]


class EdgeKey(ct.Structure):
    _fields_ = [
        ("exe", u64),
        ("peer", RawAddress),
        ("port", u16),
        ("direction", u8),
        ("protocol", u8),
        ("uid", u32),
    ]


class StoredName(ct.Structure):
    _fields_ = [("bytes", u32), ("text", u8 * EXE_NAME_BYTES)]


class EventHeader(ct.Structure):
    _fields_ = [("time_ns", u64), ("type", u32), ("bytes", u32)]


class UseEvent(ct.Structure):
    _fields_ = [
        ("header", EventHeader),
        ("key", UseKey),
        ("consumer", Identity),
        ("verdict", Verdict),
        ("source", RawAddress),
        ("destination", RawAddress),
        ("source_port", u16),
        ("port", u16),
        ("groups", u32),
        ("gids", u32 * EVENT_GROUPS),
        ("args_bytes", u32),
        ("pad", u32),
        ("comm", ct.c_char * 16),
        ("args", u8 * ARGS_BYTES),
    ]


class NameEvent(ct.Structure):
    _fields_ = [
        ("header", EventHeader),
        ("exe", u64),
        ("pid", u32),
        ("components", u32),
        ("part", (ct.c_char * COMPONENT_BYTES) * PATH_COMPONENTS),
    ]


class ListenEvent(ct.Structure):
    _fields_ = [
        ("header", EventHeader),
        ("owner", Identity),
        ("cookie", u64),
        ("address", RawAddress),
        ("port", u16),
        ("pad", u16 * 3),
        ("comm", ct.c_char * 16),
    ]


class FlowEvent(ct.Structure):
    _fields_ = [("header", EventHeader), ("cookie", u64), ("flow", Flow)]


class CgroupEvent(ct.Structure):
    _fields_ = [("header", EventHeader), ("id", u64), ("path", ct.c_char * CGROUP_BYTES)]


STRUCTS: dict[str, type[ct.Structure]] = {
    "address": RawAddress,
    "mode": RawMode,
    "settings": Settings,
    "candidate": Candidate,
    "target_row": TargetRow,
    "identity": Identity,
    "verdict": Verdict,
    "owner_key": OwnerKey,
    "listener_owner": ListenerOwner,
    "flow": Flow,
    "count_key": CountKey,
    "use_key": UseKey,
    "use": Use,
    "acceptor_key": AcceptorKey,
    "edge_key": EdgeKey,
    "stored_name": StoredName,
    "event_header": EventHeader,
    "use_event": UseEvent,
    "name_event": NameEvent,
    "listen_event": ListenEvent,
    "flow_event": FlowEvent,
    "cgroup_event": CgroupEvent,
}

EVENT_STRUCTS: dict[EventType, type[ct.Structure]] = {
    EventType.USE: UseEvent,
    EventType.NAME: NameEvent,
    EventType.LISTEN: ListenEvent,
    EventType.OPEN: FlowEvent,
    EventType.CLOSE: FlowEvent,
    EventType.CGROUP: CgroupEvent,
    EventType.BIND: ListenEvent,
}

# The small keys that are packed by the ten thousand, as struct formats; sizes are held by the same test.
TARGET_KEY = struct.Struct("=IHHQ16s")
"""prefixlen, protocol, port (host order: pack it as socket.htons), netns, address."""
SOURCE_KEY = struct.Struct("=I16s")
MEMBER_KEY = struct.Struct("=IIQ")
TARGET_KEY_FIXED_BITS = 96
"""Bits of a target key before its address."""
TUPLE = struct.Struct("=Q16s16sHHI")
"""netns (0 for routable addresses), local and remote address, local and remote port (host order), pad."""
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")
FLOW_COUNT = struct.Struct("=QQ")
TOLD = struct.Struct("=QQ")
"""attempts, time."""
