"""bpf/abi.h in Python: every struct shared with the kernel side, field by field. tests/kernel/test_abi.py
compiles the header and compares sizes and offsets. Names are those of the header, with structs in
CamelCase."""

from __future__ import annotations

import ctypes as ct
import struct
from collections.abc import Iterator
from enum import IntEnum, IntFlag
from typing import Any

from agent.model import Address

SET_WORDS = 16
WORDS_IN_BLOCK = 4
CANDIDATES = 8
MAX_TARGETS = 4096
PORTS = 65536
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

USE_SIDES = ("local", "remote")
"""Names of enum use_side, in its order."""
USES_OF_SIDE = 6144
USES_OF_SHARE = 1024
"""The most rows of `uses` that name a single consumer: for one side, and for one share of a side."""
USE_SHARES = 4096
DIRECTIONS = ("outbound", "inbound")
GATES = ("connect", "tc", "socket", "bind")
"""Names of enum gate, in its order: label values of licet_refused_total{gate}."""
ARRIVALS = ("observe_arrival", "refuse_arrival")
"""Names of enum arrival, in its order: indices of arrival_calls."""
NEVER_NS = 2**64 - 1
"""The deadline of a mode override without a deadline."""


class UseOf(IntEnum):
    """Which consumers a row of `uses` counts: one, many of one source, or all others."""

    ONE = 0
    MANY = 1
    """All consumers of one user, or from one /16 or /48."""
    OTHERS = 2


class EventType(IntEnum):
    USE = 1
    NAME = 2
    LISTEN = 3
    OPEN = 4
    CLOSE = 5
    CGROUP = 6
    BIND = 7
    NETNS = 8
    GONE = 9


class Override(IntEnum):
    NONE = 0
    OBSERVE = 1
    ENFORCE = 2


class Listener(IntFlag):
    """Flags of a listener_owner."""

    SHARES = 1
    V6ONLY = 2
    ACTIVATED = 4
    TRANSPARENT = 8
    BESIDE = 16
    OWNER = 32


class FlowState(IntEnum):
    ATTEMPT = 0
    SYN = 1
    OPEN = 2
    SPARE = 3


u8, u16, u32, u64, i32 = ct.c_uint8, ct.c_uint16, ct.c_uint32, ct.c_uint64, ct.c_int32


class RawAddress(ct.Structure):
    """An IPv6 address, or a mapped IPv4 one, in network byte order."""

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
        ("host_pidns", u32),
        ("receipts", u32),
        ("pad", u32),
    ]


class RawMode(ct.Structure):
    _fields_ = [("until_ns", u64), ("override", u32), ("pad", u32)]


class PortNumbers(ct.Structure):
    _fields_ = [("of", u16 * PORTS)]


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
        ("unresolved", u8),
        ("clock_synced", u8),
        ("drop", u8),
        ("gid_list", u32),
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
        ("sequenced", u8),
        ("foreign", u8),
        ("verdict", Verdict),
        ("local", RawAddress),
        ("remote", RawAddress),
        ("local_port", u16),
        ("remote_port", u16),
        ("sequence", u32),
        ("clauses", u64 * SET_WORDS),
    ]


class OwnerKey(ct.Structure):
    _fields_ = [("netns", u64), ("address", RawAddress), ("port", u16), ("pad", u16 * 3)]


class ListenerOwner(ct.Structure):
    _fields_ = [
        ("since_ns", u64),
        ("cookie", u64),
        ("socket", u64),
        ("flags", u32),
        ("stranger_to", u32),
        ("process", Identity),
    ]


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
        ("use_of", u8),
        ("pad", u8 * 2),
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
        ("share", u32),
        ("pad", u32),
    ]


class Sender(ct.Structure):
    _fields_ = [
        ("generation", u64),
        ("judged_ns", u64),
        ("seen_ns", u64),
        ("cred", u64),
        ("exec_id", u64),
        ("pid", u32),
        ("target", u32),
        ("decision", u8),
        ("reason", u8),
        ("enforced", u8),
        ("pad", u8 * 5),
    ]


class Sent(ct.Structure):
    _fields_ = [
        ("time_ns", u64),
        ("netns", u64),
        ("cookie", u64),
        ("target", u32),
        ("decision", u8),
        ("foreign", u8),
        ("refused", u8),
        ("forwarded", u8),
    ]


class Peer(ct.Structure):
    _fields_ = [
        ("generation", u64),
        ("judged_ns", u64),
        ("seen_ns", u64),
        ("decision", u8),
        ("reason", u8),
        ("enforced", u8),
        ("pad", u8 * 5),
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
        ("protocol", u16),
        ("target", u32),
        ("comm", ct.c_char * 16),
    ]


class FlowEvent(ct.Structure):
    _fields_ = [("header", EventHeader), ("cookie", u64), ("flow", Flow)]


class CgroupEvent(ct.Structure):
    _fields_ = [
        ("header", EventHeader),
        ("id", u64),
        ("path", ct.c_char * CGROUP_BYTES),
        ("by_root", u32),
        ("pad", u32),
    ]


class GoneEvent(ct.Structure):
    _fields_ = [("header", EventHeader), ("id", u64)]


class NetnsEvent(ct.Structure):
    _fields_ = [("header", EventHeader), ("netns", u64), ("pid", u32), ("pad", u32)]


STRUCTS: dict[str, type[ct.Structure]] = {
    "address": RawAddress,
    "mode": RawMode,
    "settings": Settings,
    "port_numbers": PortNumbers,
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
    "sender": Sender,
    "sent": Sent,
    "peer": Peer,
    "acceptor_key": AcceptorKey,
    "edge_key": EdgeKey,
    "stored_name": StoredName,
    "event_header": EventHeader,
    "use_event": UseEvent,
    "name_event": NameEvent,
    "listen_event": ListenEvent,
    "flow_event": FlowEvent,
    "cgroup_event": CgroupEvent,
    "netns_event": NetnsEvent,
    "gone_event": GoneEvent,
}

EVENT_STRUCTS: dict[EventType, type[ct.Structure]] = {
    EventType.USE: UseEvent,
    EventType.NAME: NameEvent,
    EventType.LISTEN: ListenEvent,
    EventType.OPEN: FlowEvent,
    EventType.CLOSE: FlowEvent,
    EventType.CGROUP: CgroupEvent,
    EventType.NETNS: NetnsEvent,
    EventType.GONE: GoneEvent,
    EventType.BIND: ListenEvent,
}


def event_layouts() -> dict[str, list[Any]]:
    """By event type: its size, and each field with its offset and size. A later version uses this to read
    the events of this one."""
    return {
        str(int(number)): [ct.sizeof(kind), [list(field) for field in _fields(kind)]]
        for number, kind in EVENT_STRUCTS.items()
    }


def _fields(kind: Any, offset: int = 0, name: str = "") -> Iterator[tuple[str, int, int]]:
    if not issubclass(kind, ct.Structure):
        yield name, offset, ct.sizeof(kind)
        return
    for member, of, *_ in kind._fields_:
        if not member.startswith("pad"):
            inner = f"{name}.{member}" if name else member
            yield from _fields(of, offset + getattr(kind, member).offset, inner)


# Small keys that are packed in tens of thousands, as struct formats. The same test checks their sizes.
TARGET_KEY = struct.Struct("=IHHQ16s")
"""prefixlen, protocol, port number, netns, address."""
SOURCE_KEY = struct.Struct("=I16s")
SUBORDINATE_KEY = struct.Struct("=II4s")
MEMBER_KEY = struct.Struct("=IIQ")
SUBORDINATE_KEY_FIXED_BITS = 8 * 4
TARGET_KEY_FIXED_BITS = 96
"""Number of bits of a target key before its address."""
TUPLE = struct.Struct("=Q16s16sHHI")
"""netns (0 for routable addresses), local and remote address, local and remote port (host order), pad."""
U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")


def is_spare_flow(key: bytes) -> bool:
    """True if this key of `flows` belongs to a spare row, of which each loading makes one per CPU."""
    return bool(U64.unpack(key)[0] >= SPARE_FLOW)


FLOW_COUNT = struct.Struct("=QQ")
TOLD = struct.Struct("=QQ")
"""attempts, time."""
