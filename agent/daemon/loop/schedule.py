"""Work of the loop: periodic, in turns with other work, or in the background."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterator

from agent.daemon.reporting.passes import Passes
from agent.failures import failures_told

TURN_S = 0.02
"""Time that the loop spends on one work item before all others have their turn."""
LONG_S = 0.25
RESTS = 4
"""Rest after a long look, as a multiple of its duration."""


async def every(
    seconds: float,
    work: Callable[[], Awaitable[None]],
    passes: Passes,
    wake: asyncio.Event | None = None,
) -> None:
    """Run `work` periodically. A failure is logged, and the next round tries again; the kernel goes on
    judging meanwhile."""
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
    """Run short steps and let other work in between: very many events or rows must not delay answers."""
    until_s = time.monotonic() + TURN_S
    for _ in work:
        if time.monotonic() >= until_s:
            await asyncio.sleep(0)
            until_s = time.monotonic() + TURN_S


async def rest(took_s: float, most_s: float) -> None:
    """Rest after a long look. A process that wakes the loop repeatedly, on a host with very many sockets,
    must not fill it with looks."""
    if took_s > LONG_S:
        await asyncio.sleep(min(took_s * RESTS, most_s))


class Background:
    """Work that no caller awaits."""

    def __init__(self) -> None:
        self._running: set[asyncio.Future[None]] = set()

    def start(self, work: Awaitable[None]) -> None:
        task = asyncio.ensure_future(work)
        self._running.add(task)  # the loop itself holds only weak references to tasks
        task.add_done_callback(self._running.discard)
