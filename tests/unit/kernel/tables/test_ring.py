from __future__ import annotations

import ctypes as ct

import pytest

from agent import abi
from agent.kernel.tables import ring


def record(kind: abi.EventType, **fields: object) -> bytes:
    struct = abi.EVENT_STRUCTS[kind]
    header = abi.EventHeader(time_ns=7, type=kind, bytes=ct.sizeof(struct))
    return bytes(struct(header=header, **fields))


def name_event(*components: bytes, exe: int = 0) -> abi.NameEvent:
    """`components` as the kernel walks them: from the leaf to the root."""
    event = abi.NameEvent(exe=exe, components=len(components))
    for place, component in enumerate(components):
        event.part[place].value = component
    return event


@pytest.mark.parametrize("kind", list(abi.EventType))
def test_a_record_becomes_the_struct_of_its_type(kind: abi.EventType) -> None:
    (event,) = ring.decode([record(kind)])
    assert type(event) is abi.EVENT_STRUCTS[kind]
    assert event.header.time_ns == 7


def test_records_keep_their_order() -> None:
    records = [record(abi.EventType.CGROUP, id=number) for number in (3, 1, 2)]
    assert [event.id for event in ring.decode(records) if isinstance(event, abi.CgroupEvent)] == [3, 1, 2]


def test_a_record_longer_than_its_struct_is_read() -> None:
    (event,) = ring.decode([record(abi.EventType.CGROUP, id=5) + bytes(8)])
    assert isinstance(event, abi.CgroupEvent)
    assert event.id == 5


@pytest.mark.parametrize(
    "strange",
    [
        b"",
        b"\1",
        bytes(15),
        bytes(abi.EventHeader(type=99)) + bytes(4096),
        bytes(abi.EventHeader(type=0)) + bytes(4096),
        record(abi.EventType.USE)[:-1],
        bytes(abi.EventHeader(type=abi.EventType.CLOSE)),
    ],
    ids=["empty", "one byte", "half a header", "type 99", "type 0", "cut by a byte", "header only"],
)
def test_a_strange_record_is_passed_over_and_the_next_one_is_read(strange: bytes) -> None:
    events = list(ring.decode([strange, record(abi.EventType.CGROUP, id=5)]))
    assert [type(event) for event in events] == [abi.CgroupEvent]


def test_a_path_is_put_together_from_leaf_to_root() -> None:
    assert ring.path_of(name_event(b"psql", b"bin", b"usr")) == "/usr/bin/psql"


def test_a_mount_crossing_adds_no_component() -> None:
    assert ring.path_of(name_event(b"tool", b"", b"opt")) == "/opt/tool"


def test_a_path_that_is_not_utf8_comes_back_byte_for_byte() -> None:
    path = ring.path_of(name_event(b"\xff\xfe", b"tmp"))
    assert path.encode("utf-8", "surrogateescape") == b"/tmp/\xff\xfe"


@pytest.mark.parametrize(
    ("raw", "count", "args"),
    [
        (b"", 0, ()),
        (b"psql\0-h\0db\0", 11, ("psql", "-h", "db")),
        (b"psql\0-h\0data", 10, ("psql", "-h", "da")),
        (b"a\0\0b\0", 5, ("a", "", "b")),
        (b"\0\0\0", 3, ()),
        (b"\xff\0", 2, ("\udcff",)),
    ],
    ids=["none", "three", "cut", "an empty one", "wiped by the process", "not UTF-8"],
)
def test_arguments_are_split_at_their_zeros(raw: bytes, count: int, args: tuple[str, ...]) -> None:
    event = abi.UseEvent(args_bytes=count)
    ct.memmove(event.args, raw, len(raw))
    assert ring.args_of(event) == args
