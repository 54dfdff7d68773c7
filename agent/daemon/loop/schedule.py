"""Work of the loop: again and again, in turns with all the rest, or in the background."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

from agent.daemon.reporting.passes import Passes
from agent.failures import failures_told

TURN_S = 0.02
"""So long the loop does one thing of many before all others have their turn."""
LONG_S = 0.25
RESTS = 4
"""So many times as long as a look took, if that was long."""


async def every(
    seconds: float,
    work: Callable[[], Awaitable[None]],
    passes: Passes,
    wake: asyncio.Event | None = None,
) -> None:
    """A failure is told and tried again the next time: the kernel goes on judging meanwhile."""
    while True:
        if wake is None:
            await asyncio.sleep(seconds)
        else:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(wake.wait(), seconds)
            wake.clear()
        began_s = time.monotonic()
        with failures_told(), passes.passing(work.__qualname__):
            await work()
        if wake is not None:
            await rest(time.monotonic() - began_s, seconds)


async def in_turns(work: Iterator[None]) -> None:
    """Each step is short. Whoever makes very many events, or rows, keeps nobody from being answered."""
    until_s = time.monotonic() + TURN_S
    for _ in work:
        if time.monotonic() >= until_s:
            await asyncio.sleep(0)
            until_s = time.monotonic() + TURN_S


async def rest(took_s: float, most_s: float) -> None:
    """Whoever wakes it again and again, on a host with very many sockets, must not make looks all that is
    done."""
    if took_s > LONG_S:
        await asyncio.sleep(min(took_s * RESTS, most_s))


class Background:
    """Work that nobody waits for."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[None]] = set()

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself holds tasks only weakly
        task.add_done_callback(self._running.discard)
