"""Two uvicorn servers in the daemon's own loop: TCP for scrapes, a unix socket for control."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.applications import Starlette
from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.export.api import control_app, public_app
from agent.export.listening import listen_tcp, listen_unix
from agent.export.view import Agent, Caller

STOP_WITHIN_S = 2
FIRST_REQUEST_WITHIN_S = 10.0
CONNECTIONS = 256


_CREDENTIALS = struct.Struct("=iII")
"""struct ucred (unix(7)): pid, uid, gid."""


class _Protocol(H11Protocol):
    """A connection that asks nothing is let go of: uvicorn waits without end for a first request. Who is at
    the other end of a unix socket is `request.state.caller`."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        caller = _caller(transport.get_extra_info("socket"))
        if caller is not None:
            # each request's scope gets a copy as its `state`; the mapping itself is shared by connections
            self.app_state = {**self.app_state, "caller": caller}
        self.loop.call_later(FIRST_REQUEST_WITHIN_S, self._let_go)

    def _let_go(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def _caller(connection: socket.socket | None) -> Caller | None:
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Caller(uid=uid, pid=pid)


class _Server(uvicorn.Server):
    """Signals are the daemon's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Servers:
    """Serves while the context is open. Raises ConfigError or KernelError where it can't listen."""

    def __init__(self, agent: Agent, listen: str, control_socket: Path) -> None:
        self._public = listen_tcp(listen)
        try:
            self._control = listen_unix(control_socket)
        except BaseException:
            self._public.close()
            raise
        self._control_path = control_socket
        self._stopping = False
        self._servers = (
            _Server(_config(public_app(agent))),
            _Server(_config(control_app(agent, lambda: self._stopping))),
        )
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def public_address(self) -> str:
        """HOST:PORT, with the port that was taken where port 0 was asked for."""
        host, port = self._public.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def __aenter__(self) -> Servers:
        for server, listener in zip(self._servers, (self._public, self._control), strict=True):
            self._tasks.append(asyncio.create_task(_serve(server, listener)))
        while not all(server.started for server in self._servers):
            for task in self._tasks:
                if task.done():
                    task.result()  # raises what it failed with
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._control_path.unlink(missing_ok=True)


async def _serve(server: _Server, listener: socket.socket) -> None:
    await server.serve(sockets=[listener])


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http=_Protocol,
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",  # the application logs its own failures, in one line
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
        limit_concurrency=CONNECTIONS,
    )
