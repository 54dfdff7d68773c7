"""Serves health on its own thread, so that probes get an answer however busy the daemon's loop is."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import uvicorn

BEAT_S = 0.5
HUNG_AFTER_S = 15.0
"""A loop without a beat for this long counts as hung. Under 400 scrapes, a busy loop was seen to pause for 5
s."""


class Heartbeat:
    """The heartbeat of the event loop that runs `beating`."""

    def __init__(self) -> None:
        self._last_s = time.monotonic()

    @contextlib.asynccontextmanager
    async def beating(self) -> AsyncIterator[None]:
        task = asyncio.create_task(self._beat())
        try:
            yield
        finally:
            task.cancel()

    async def _beat(self) -> None:
        while True:
            self._last_s = time.monotonic()
            await asyncio.sleep(BEAT_S)

    def why_dead(self) -> str:
        """Why the loop is not alive; empty if it is."""
        silent_s = time.monotonic() - self._last_s
        return (
            f"the agent hangs: its loop has not run for {silent_s:.0f} s" if silent_s > HUNG_AFTER_S else ""
        )


class ThreadedServer:
    """Runs a server in its own event loop and thread until it is stopped."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._serve, name="licet-health", daemon=True)

    def _serve(self) -> None:
        asyncio.run(self._server.serve())

    async def start(self) -> None:
        """Start the thread and wait for the server. Raises RuntimeError if the server ends at once."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the health server ended as it started")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
