"""Two uvicorn servers in the daemon's own loop: TCP for scrapes, a unix socket for control."""

from __future__ import annotations

import asyncio
import contextlib
import grp
import os
import socket
import stat
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType

import uvicorn
from starlette.applications import Starlette

from agent.errors import ConfigError, KernelError
from agent.export.api import control_app, public_app
from agent.export.view import Agent

CONTROL_GROUP = "licet"
STOP_WITHIN_S = 2


class _Server(uvicorn.Server):
    """Signals are the daemon's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class Servers:
    """Serves while the context is open. Raises ConfigError or KernelError where it can't listen."""

    def __init__(self, agent: Agent, listen: str, control_socket: Path) -> None:
        self._apps = (public_app(agent), control_app(agent))
        self._public = _listen_tcp(listen)
        try:
            self._control = _listen_unix(control_socket)
        except BaseException:
            self._public.close()
            raise
        self._control_path = control_socket
        self._servers: list[_Server] = []
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def public_address(self) -> str:
        host, port = self._public.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    async def __aenter__(self) -> Servers:
        for app, listener in zip(self._apps, (self._public, self._control), strict=True):
            server = _Server(_config(app))
            self._servers.append(server)
            self._tasks.append(asyncio.create_task(server.serve(sockets=[listener])))
        while not all(server.started for server in self._servers):
            await asyncio.sleep(0.005)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for server in self._servers:
            server.should_exit = True
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._control_path.unlink(missing_ok=True)


def _config(app: Starlette) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        http="h11",
        ws="none",
        lifespan="off",
        access_log=False,
        log_config=None,
        log_level="critical",
        server_header=False,
        timeout_graceful_shutdown=STOP_WITHIN_S,
        limit_concurrency=256,
    )


def _listen_tcp(listen: str) -> socket.socket:
    host, _, port = listen.rpartition(":")
    host = host.strip("[]")
    if not port.isdecimal() or not host:
        raise ConfigError(f"listen: {listen!r} is not HOST:PORT, such as 127.0.0.1:9477")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, int(port)))
        listener.listen()
    except OSError as error:
        listener.close()
        raise ConfigError(f"listen: {listen}: {error.strerror}; choose another address") from error
    return listener


def _listen_unix(path: Path) -> socket.socket:
    """Replaces the socket of a daemon that is gone: the run lock says that there is no other."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists() and not stat.S_ISSOCK(path.stat().st_mode):
        raise KernelError(f"{path}: is not a socket; remove it")
    path.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o117)
    try:
        listener.bind(str(path))
        listener.listen()
    except OSError as error:
        listener.close()
        raise KernelError(f"{path}: cannot listen: {error}") from error
    finally:
        os.umask(before)
    with contextlib.suppress(KeyError, PermissionError):
        os.chown(path, -1, grp.getgrnam(CONTROL_GROUP).gr_gid)
    return listener
