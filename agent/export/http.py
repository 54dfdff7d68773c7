"""Shared by both HTTP applications: JSON answers, errors as JSON, serial reads, and a limit on bodies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Hashable
from http import HTTPStatus
from typing import Any, TypeVar

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from agent.errors import ConfigError, LicetError, ModeError, PolicyError, PolicyErrors
from agent.export.sanitize import printable, to_json
from agent.wording import did_you_mean

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 65536
Answer = TypeVar("Answer")


class JsonAnswer(JSONResponse):
    """JSON as all of licet writes it."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class Reader:
    """Runs reads in a thread beside the loop, one at a time. Threads cost memory, and a hundred concurrent
    scrapes must not read the kernel's maps a hundred times."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __call__(self, read: Callable[[], Answer]) -> Answer:
        async with self._turn:
            return await asyncio.to_thread(read)


class SharedReader:
    """A Reader whose waiting requests of one kind share one answer. However many scrapes arrive at once, each
    waits for at most two reads of each kind."""

    def __init__(self) -> None:
        self._read = Reader()
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def __call__(self, kind: Hashable, read: Callable[[], Answer]) -> Answer:
        def begun() -> Answer:
            self._waiting.pop(kind, None)  # later requests start a new read
            return read()

        task = self._waiting.get(kind)
        if task is None:
            task = self._waiting[kind] = asyncio.create_task(self._read(begun))
        answer: Answer = await asyncio.shield(task)
        return answer


class SmallBodies:
    """Middleware that refuses large bodies unread, since no request here needs one. It refuses a body that is
    announced as large or without a length."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        too_long = int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES
        if not too_long and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        error = {"error": f"expected a body of at most {MAX_BODY_BYTES} bytes with a Content-Length"}
        await JsonAnswer(error, status_code=413, headers={"connection": "close"})(scope, receive, send)


def application(routes: list[Route]) -> Starlette:
    """An application with these routes. Every error becomes {"error": …} with a fitting status."""
    return Starlette(
        routes=routes,
        exception_handlers={
            HTTPException: _refuse,
            LicetError: _explain,
            Exception: _fail,
        },
        middleware=[Middleware(SmallBodies)],
    )


async def _refuse(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return JsonAnswer(
        {"error": _reason(request, error)}, status_code=error.status_code, headers=error.headers
    )


def _reason(request: Request, error: HTTPException) -> str:
    """The error message. It replaces the bare status phrase of starlette for an unknown path or method."""
    path = printable(request.url.path)
    if error.detail == HTTPStatus.NOT_FOUND.phrase:
        known = sorted({route.path for route in request.app.routes})
        listed = f"there are {', '.join(known)}"
        return f"{path}: no such path; {did_you_mean(path, known, listed)}"
    if error.detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        allowed = (error.headers or {}).get("Allow", "another method")
        return f"{path}: method {request.method} is not allowed; use {allowed}"
    return error.detail


async def _explain(_request: Request, error: Exception) -> Response:
    operators_own = isinstance(error, PolicyError | PolicyErrors | ConfigError | ModeError)
    return JsonAnswer({"error": str(error)}, status_code=422 if operators_own else 500)


async def _fail(request: Request, error: Exception) -> Response:
    what = f"{type(error).__name__}: {error}"
    log.error("%s %s failed: %s", request.method, request.url.path, what)
    log.debug("%s", what, exc_info=error)
    return JsonAnswer({"error": f"the agent could not answer: {what}"}, status_code=500)
