"""Health on a thread of its own: however much the daemon's loop has to do, whoever probes is answered."""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import AsyncIterator

import uvicorn

BEAT_S = 0.5
HUNG_AFTER_S = 15.0
"""A loop that did nothing for so long is not alive; a busy one was seen to take 5 s over 400 scrapes."""


class Heartbeat:
    """Of the loop in which it beats."""

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
        """Empty: it is alive."""
        silent_s = time.monotonic() - self._last_s
        return f"the agent hangs: nothing was done for {silent_s:.0f} s" if silent_s > HUNG_AFTER_S else ""


class ThreadedServer:
    """Serves in a loop of its own until it is stopped."""

    def __init__(self, server: uvicorn.Server) -> None:
        self._server = server
        self._thread = threading.Thread(target=self._serve, name="licet-health", daemon=True)

    def _serve(self) -> None:
        asyncio.run(self._server.serve())

    async def start(self) -> None:
        """Raises RuntimeError where it ends at once."""
        self._thread.start()
        while not self._server.started:
            if not self._thread.is_alive():
                raise RuntimeError("the server for health ended as it started")
            await asyncio.sleep(0.005)

    async def stop(self) -> None:
        self._server.should_exit = True
        if self._thread.ident is not None:
            await asyncio.to_thread(self._thread.join)
