"""What the loop does when something in it fails or takes long: it says so, and goes on with the rest."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import Iterator

import pytest

from agent.daemon.loop.schedule import TURN_S, Background, every, in_turns, rest
from agent.daemon.reporting.passes import Passes
from agent.errors import KernelError


@pytest.mark.parametrize("error", [KernelError("gone"), OSError("gone"), KeyError("gone")])
def test_work_that_failed_is_told_and_done_again(error: Exception, caplog: pytest.LogCaptureFixture) -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)
        if len(done) == 1:
            raise error

    async def twice() -> None:
        task = asyncio.create_task(every(0, work, Passes()))
        while len(done) < 2:
            assert not task.done()
            await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(twice(), 10))
    assert "gone" in caplog.text


def test_who_wakes_it_does_not_wait_for_the_next_time() -> None:
    done: list[int] = []

    async def work() -> None:
        done.append(1)

    async def woken() -> None:
        wake = asyncio.Event()
        task = asyncio.create_task(every(3600, work, Passes(), wake))
        for times in (1, 2):
            wake.set()
            while len(done) < times:
                await asyncio.sleep(0)
        task.cancel()

    asyncio.run(asyncio.wait_for(woken(), 10))
    assert len(done) == 2


def test_others_have_their_turn_in_the_middle_of_long_work(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a hundred steps of 5 ms each."""
    now_s, answered = [0.0], list[int]()
    monkeypatch.setattr("agent.daemon.loop.schedule.time.monotonic", lambda: now_s[0])

    def work() -> Iterator[None]:
        for _ in range(100):
            now_s[0] += 0.005
            yield

    async def both() -> None:
        task = asyncio.create_task(in_turns(work()))
        while not task.done():
            answered.append(round(now_s[0] * 1000))
            await asyncio.sleep(0)

    asyncio.run(both())
    waits_ms = [later - one for one, later in itertools.pairwise(answered)]
    assert len(answered) >= 20
    assert max(waits_ms) <= TURN_S * 1000 + 5


@pytest.mark.parametrize(("took_s", "rests_s"), [(0.0, []), (0.25, []), (0.5, [2.0]), (3.0, [5.0])])
def test_a_look_that_took_long_is_followed_by_rest(
    took_s: float, rests_s: list[float], monkeypatch: pytest.MonkeyPatch
) -> None:
    rested: list[float] = []

    async def sleep(seconds: float) -> None:
        rested.append(seconds)

    monkeypatch.setattr("agent.daemon.loop.schedule.asyncio.sleep", sleep)
    asyncio.run(rest(took_s, 5.0))
    assert rested == rests_s


def test_what_nobody_waits_for_is_done_all_the_same() -> None:
    done: list[int] = []

    async def work() -> None:
        await asyncio.sleep(0)
        done.append(1)

    async def main() -> None:
        background = Background()
        background.start(work())
        while not done:
            await asyncio.sleep(0)

    asyncio.run(asyncio.wait_for(main(), 10))
