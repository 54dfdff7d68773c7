"""Events of the kernel go to who knows what to do with them, each once, and none takes another with it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest.mock import MagicMock

import pytest

from agent import abi
from agent.daemon.loop.ring_events import WAITING, RingEvents
from agent.daemon.loop.schedule import in_turns
from agent.daemon.tracking.refused_binds import RefusedBinds
from agent.daemon.tracking.usage import Attempt
from agent.model import Process, Reason
from tests.unit.daemon.worlds import DB, HERE, new_names, numbered


class Ring:
    def __init__(self, *events: Any) -> None:
        self.records = [bytes(event) for event in events]

    def drain(self) -> list[bytes]:
        return self.records


@dataclass
class Parts:
    """Who is asked for what; each part notes it."""

    ring: Ring = field(default_factory=Ring)
    asked: list[tuple[Any, ...]] = field(default_factory=list)
    attempts: list[Attempt] = field(default_factory=list)
    reach_too_far: bool = False

    def events(self) -> RingEvents:
        part: Any = self
        return RingEvents(
            reader=part.ring,
            counters=MagicMock(),
            names=new_names(),
            keeper=part,
            attributor=part,
            containers=part,
            homes=part,
            finder=part,
            usage=part,
            exposures=part,
            listening=MagicMock(),
            strangers=part,
            refused_binds=RefusedBinds(),
            reporter=part,
            listener_reports=part,
            host=part,
            background=part,
        )

    ids = numbered(DB)

    @property
    def wake(self) -> Parts:
        return self

    def set(self) -> None:
        self.asked.append(("wake",))

    def cgroup_made(self, number: int, path: str, *, by_root: bool) -> None:
        self.asked.append(("cgroup", number, path, by_root))
        if number == 1:
            raise KeyError("a mistake")
        if number == 2:
            raise OSError("no room")

    def complete(self, seen: Process, *, comm: str) -> Process:
        return seen

    def learn_cgroup(self, number: int, path: str) -> None: ...

    def appeared(self, path: str, *, by_root: bool) -> None: ...

    def executable_known(self, path: str) -> None:
        self.asked.append(("executable", path))

    def program_started(self, pid: int, netns: int) -> None:
        self.asked.append(("started", pid, netns))

    def first_attempt(self, event: Any) -> Any:
        if isinstance(event, Attempt):
            self.asked.append(("attempt",))
            return None
        return self.attempts.pop() if self.attempts else None

    def is_new(self, attempt: Attempt) -> bool:
        return self.reach_too_far

    def exposure(self, attempt: Attempt) -> None:
        self.asked.append(("exposure",))

    def look(self, now_ns: int) -> Iterator[Attempt | None]:
        yield from self.attempts

    def summary(self, attempt: Attempt, now_ns: int) -> None:
        self.asked.append(("summary",))

    def refused_bind(
        self, process: Process, address: Any, protocol: Any, port: int, target: int, attempts: int
    ) -> None:
        self.asked.append(("refused bind", port, attempts))

    def refused(self, target: Any, address: Any, port: int, process: Process) -> None:
        self.asked.append(("stranger", str(target), port))


def cgroup_event(number: int, path: bytes = b"/one") -> abi.CgroupEvent:
    return abi.CgroupEvent(header=abi.EventHeader(type=abi.EventType.CGROUP), id=number, path=path)


def attempt() -> Attempt:
    return Attempt(MagicMock(), DB, None, 1, 1)


def test_an_event_that_can_not_be_handled_takes_no_others_with_it(caplog: pytest.LogCaptureFixture) -> None:
    parts = Parts(Ring(*map(cgroup_event, (1, 2, 3))))
    parts.events().drain()
    assert [one[1] for one in parts.asked] == [1, 2, 3]
    assert "an error in licet" in caplog.text
    assert "no room" in caplog.text


class Endless(Ring):
    def drain(self) -> list[bytes]:
        return self.records * 64


def test_whoever_makes_events_without_end_keeps_no_summary_from_being_made() -> None:
    parts = Parts(Endless(cgroup_event(3)))
    asyncio.run(in_turns(parts.events().until_empty()))
    assert WAITING <= len(parts.asked) < WAITING + 64


def test_a_cgroup_whose_path_did_not_fit_is_looked_for() -> None:
    parts = Parts()
    parts.events().handle(cgroup_event(3, b""))
    assert parts.asked == [("wake",)]


@pytest.mark.parametrize("far", [True, False])
def test_an_attempt_is_told_and_then_what_it_shows_of_the_port(far: bool) -> None:
    parts = Parts(attempts=[attempt()], reach_too_far=far)
    parts.events().handle(abi.UseEvent(header=abi.EventHeader(type=abi.EventType.USE)))
    assert parts.asked == [("attempt",), ("exposure",)][: 1 + far]


def test_what_was_not_resolved_is_looked_for() -> None:
    parts = Parts()
    event = abi.UseEvent(header=abi.EventHeader(type=abi.EventType.USE))
    event.verdict.reason = Reason.UNRESOLVED
    parts.events().handle(event)
    assert parts.asked == [("wake",)]


def test_summaries_are_made_row_by_row() -> None:
    parts = Parts(attempts=[attempt(), None, attempt()], reach_too_far=True)  # type: ignore[list-item]
    rows = parts.events().summaries()
    next(rows)
    assert parts.asked == [("summary",), ("exposure",)]
    assert len(list(rows)) == 2
    assert parts.asked.count(("summary",)) == 2


def test_a_bind_that_is_refused_again_and_again_is_reported_once_and_every_time_remembered() -> None:
    parts = Parts()
    events = parts.events()
    refused = abi.ListenEvent(
        header=abi.EventHeader(type=abi.EventType.BIND),
        owner=abi.Identity(pid=7, uid=1000),
        address=abi.RawAddress.of(HERE),
        port=5432,
        protocol=6,
        target=1,
    )
    for _ in range(3):
        events.handle(refused)
    assert [one for one in parts.asked if one[0] == "refused bind"] == [("refused bind", 5432, 1)]
    assert parts.asked.count(("stranger", "db/internal", 5432)) == 3
