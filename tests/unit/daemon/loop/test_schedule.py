"""What the loop does when something in it fails: the daemon that misses a look says so, and looks again."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from agent import abi
from agent.daemon.loop.daemon import TURN_S, WAITING, Daemon, _in_turns, _rest
from agent.daemon.reporting.passes import Passes
from agent.errors import KernelError
from agent.kernel.tables import ring


class Ring:
    def __init__(self, *events: abi.CgroupEvent) -> None:
        self._records = [bytes(event) for event in events]

    def drain(self) -> list[bytes]:
        return self._records


class Stumbling(Daemon):
    """A daemon that can't handle some events."""

    def __init__(self, *events: abi.CgroupEvent) -> None:
        self._ring = Ring(*events)  # type: ignore[assignment]
        self._passes = Passes()
        self.handled: list[int] = []

    def _on_event(self, event: ring.Event) -> None:
        assert isinstance(event, abi.CgroupEvent)
        self.handled.append(event.id)
        if event.id == 1:
            raise KeyError("a mistake")
        if event.id == 2:
            raise OSError("no room")


def cgroup_event(number: int) -> abi.CgroupEvent:
    return abi.CgroupEvent(header=abi.EventHeader(type=abi.EventType.CGROUP), id=number)


def test_an_event_that_can_not_be_handled_takes_no_others_with_it(caplog: pytest.LogCaptureFixture) -> None:
    daemon = Stumbling(*map(cgroup_event, (1, 2, 3)))
    daemon._on_ring()
    assert daemon.handled == [1, 2, 3]
    assert "an error in licet" in caplog.text
    assert "no room" in caplog.text


@pytest.mark.parametrize("error", [KernelError("gone"), OSError("gone"), KeyError("gone")])
def test_work_that_failed_is_told_and_done_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)
        if len(done) == 1:
            raise error

    async def twice() -> None:
        task = asyncio.create_task(Stumbling()._every(0, work))
        while len(done) < 2:
            assert not task.done()
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(twice(), 10))
    assert "gone" in caplog.text


def test_others_have_their_turn_in_the_middle_of_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred steps of 5 ms each."""
    now_s, answered = [0.0], list[int]()
    monkeypatch.setattr("agent.daemon.loop.daemon.time.monotonic", lambda: now_s[0])

    def work() -> Iterator[None]:
        for _ in range(100):
            now_s[0] += 0.005
            yield

    async def both() -> None:
        task = asyncio.create_task(_in_turns(work()))
        while not task.done():
            answered.append(round(now_s[0] * 1000))
            await asyncio.sleep(0)

    asyncio.run(both())
    waits_ms = [later - one for one, later in itertools.pairwise(answered)]
    assert len(answered) >= 20
    assert max(waits_ms) <= TURN_S * 1000 + 5


class Endless(Ring):
    def drain(self) -> list[bytes]:
        return self._records * 64


def test_whoever_makes_events_without_end_keeps_no_summary_from_being_made() -> None:
    daemon = Stumbling()
    daemon._ring = Endless(cgroup_event(3))  # type: ignore[assignment]
    asyncio.run(_in_turns(daemon._ring_until_empty()))
    assert WAITING <= len(daemon.handled) < WAITING + 64


@pytest.mark.parametrize(("took_s", "rests_s"), [(0.0, []), (0.25, []), (0.5, [2.0]), (3.0, [5.0])])
def test_a_look_that_took_long_is_followed_by_rest(
    took_s: float, rests_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[float] = []

    async def sleep(seconds: float) -> None:
        rested.append(seconds)

    monkeypatch.setattr("agent.daemon.loop.daemon.asyncio.sleep", sleep)
    asyncio.run(_rest(took_s, 5.0))
    assert rested == rests_s
