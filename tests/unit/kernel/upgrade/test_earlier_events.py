"""Events of the version before, in the layouts of this one."""

from __future__ import annotations

import ctypes as ct
import json
from pathlib import Path

from agent import abi
from agent.kernel.tables import ring
from agent.kernel.upgrade import earlier_events, staging


def bind_event() -> abi.ListenEvent:
    header = abi.EventHeader(time_ns=5, type=abi.EventType.BIND, bytes=ct.sizeof(abi.ListenEvent))
    return abi.ListenEvent(header=header, owner=abi.Identity(pid=7, uid=9), cookie=11, port=80, comm=b"nginx")


def test_an_event_of_the_same_layout_stays_as_it_was() -> None:
    event = bytes(bind_event())
    assert list(earlier_events.convert([event], abi.event_layouts())) == [event]


def test_fields_go_where_this_version_has_them() -> None:
    before = abi.event_layouts()
    kind = str(int(abi.EventType.BIND))
    size, fields = before[kind]
    # as if the owner had come after everything else
    moved = [[name, at + size if name.startswith("owner.") else at, n] for name, at, n in fields]
    record = bytes(bind_event()) + bytes(bind_event())
    (made,) = earlier_events.convert([record], {kind: [2 * size, moved]})
    (event,) = ring.decode([made])
    assert isinstance(event, abi.ListenEvent)
    assert (event.owner.pid, event.port, event.comm, event.header.bytes) == (7, 80, b"nginx", size)


def test_what_is_not_known_or_cannot_be_had_is_left_out() -> None:
    layouts = abi.event_layouts()
    event, kind = bytes(bind_event()), str(int(abi.EventType.BIND))
    gone = {kind: [layouts[kind][0], [*layouts[kind][1], ["no_more", 0, 8]]]}
    assert list(earlier_events.convert([event], {})) == []
    assert list(earlier_events.convert([event], gone)) == []
    assert list(earlier_events.convert([event[:20], b"", b"\xff" * 400], layouts)) == []


def test_what_was_carried_is_taken_once(tmp_path: Path) -> None:
    assert earlier_events.taken(tmp_path / "none") == []
    kept = tmp_path / "kept"
    kept.write_bytes(b"AAEC\nAwQ=\n")
    assert earlier_events.taken(kept) == [b"\0\1\2", b"\3\4"]
    assert earlier_events.taken(kept) == []


def test_the_layouts_of_0_1_0_are_kept() -> None:
    text = (staging.EVENTS_OF_ABI / "events_of_abi_1.json").read_text()
    layouts = json.loads(text)
    assert layouts.keys() == {str(int(kind)) for kind in abi.EventType if kind <= 7}
    header = [
        [f"header.{name}", *place] for name, *place in (("time_ns", 0, 8), ("type", 8, 4), ("bytes", 12, 4))
    ]
    assert all(fields[:3] == header for _, fields in layouts.values()), "which no version may change"
    assert [layout[1][:3] for layout in abi.event_layouts().values()] == [header] * len(abi.event_layouts())
