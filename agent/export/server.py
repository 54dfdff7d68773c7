"""The uvicorn servers: scrapes (TCP) and control (unix socket) in the daemon's loop, health in its own
thread."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.applications import Starlette

from agent.export.agent_port import Agent
from agent.export.api import control_app, health_app, public_app
from agent.export.connections import ANSWER_WITHIN_S, Accepting, Connection
from agent.export.health import Heartbeat, ThreadedServer
from agent.export.hosts import Hosts
from agent.export.sockets import listen_tcp, listen_unix

STOP_WITHIN_S = 2
CONNECTIONS = 128
CONTROL_CONNECTIONS = 256
HEALTH_CONNECTIONS = 16


class _Server(uvicorn.Server):
    """A uvicorn server that leaves signals to the daemon and accepts connections with `Accepting`."""

    def __init__(
        self,
        app: Starlette,
        listener: socket.socket,
        most: int = CONNECTIONS,
        answer_within_s: float = float("inf"),
    ) -> None:
        super().__init__(_config(app))
        self._accepting = Accepting(listener, most, self._connection, answer_within_s)

    def _connection(self, lost: Callable[[Connection], None]) -> Connection:
        return Connection(
            config=self.config, server_state=self.server_state, app_state=self.lifespan.state, lost=lost
        )

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=[])
        self._accepting.open()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._accepting.close()
        await super().shutdown(sockets=[])

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Servers:
    """Serves while the context is open. Raises ConfigError or KernelError if it cannot listen."""

    def __init__(
        self,
        agent: Agent,
        listen: str,
        control_socket: Path,
        health_listen: str = "",
        hosts: Iterable[str] = (),
    ) -> None:
        """`health_listen`: a separate address for health, where clients of `listen` cannot crowd out probes.
        `hosts`: as in Hosts."""
        with contextlib.ExitStack() as listening:
            self._public = listening.enter_context(listen_tcp(listen))
            health = [listening.enter_context(listen_tcp(health_listen))] if health_listen else []
            control = listening.enter_context(listen_unix(control_socket))
            listening.pop_all()
        self.ports = frozenset(int(one.getsockname()[1]) for one in (self._public, *health))
        """The TCP ports in use."""
        self._control_path = control_socket
        self._stopping = False
        self._servers = [
            _Server(public_app(agent, Hosts(hosts)), self._public, answer_within_s=ANSWER_WITHIN_S),
            _Server(control_app(agent, lambda: self._stopping), control, CONTROL_CONNECTIONS),
        ]
        self._heart = Heartbeat()
        health_of = health_app(agent, self._heart.why_dead)
        self._health = [
            ThreadedServer(_Server(health_of, one, HEALTH_CONNECTIONS, ANSWER_WITHIN_S)) for one in health
        ]
        self._running = contextlib.AsyncExitStack()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def public_address(self) -> str:
        """HOST:PORT of the scrape endpoint, with the actual port if the configured one is 0."""
        host, port = self._public.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def __aenter__(self) -> Servers:
        await self._running.enter_async_context(self._heart.beating())
        for one in self._health:
            self._running.push_async_callback(one.stop)
            await one.start()
        self._tasks = [asyncio.create_task(server.serve()) for server in self._servers]
        while not all(server.started for server in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()  # raises the server's error
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._running.aclose()
        self._control_path.unlink(missing_ok=True)


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # the application logs its own failures, in one line
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
    )
