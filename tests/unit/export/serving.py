"""The real servers, in a loop of a thread's own."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from agent.export.agent_port import Agent
from agent.export.server import Servers


@contextmanager
def serving(agent: Agent, control_socket: Path, health_listen: str = "") -> Iterator[Servers]:
    """Listens on a free port and on `control_socket`; stopped when the context ends."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()

    async def start() -> Servers:
        return await Servers(agent, "127.0.0.1:0", control_socket, health_listen).__aenter__()

    try:
        servers = asyncio.run_coroutine_threadsafe(start(), loop).result(10)
        try:
            yield servers
        finally:
            asyncio.run_coroutine_threadsafe(servers.__aexit__(None, None, None), loop).result(10)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(10)
        loop.close()
