"""What both HTTP applications share: JSON answers, errors as JSON, reading one at a time, small bodies."""

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
from agent.export.text import printable, to_json
from agent.policy.findings import did_you_mean

log = logging.getLogger(__name__)

MAX_BODY_BYTES = 65536
Answer = TypeVar("Answer")


class JsonAnswer(JSONResponse):
    """JSON as all of licet writes it."""

    def render(self, content: Any) -> bytes:
        return to_json(content).encode()


class Reader:
    """Runs a read beside the loop, one after the other: threads cost memory, and a hundred scrapes at once
    must not read the kernel's maps a hundred times over."""

    def __init__(self) -> None:
        self._turn = asyncio.Lock()

    async def __call__(self, read: Callable[[], Answer]) -> Answer:
        async with self._turn:
            return await asyncio.to_thread(read)


class SharedReader:
    """As Reader, but whoever asks for the same while it waits for its turn shares one answer: however many
    scrapes come at once, none waits for more than two of each kind."""

    def __init__(self) -> None:
        self._read = Reader()
        self._waiting: dict[Hashable, asyncio.Task[Any]] = {}

    async def __call__(self, kind: Hashable, read: Callable[[], Answer]) -> Answer:
        def begun() -> Answer:
            self._waiting.pop(kind, None)  # whoever comes from here on asks anew
            return read()

        task = self._waiting.get(kind)
        if task is None:
            task = self._waiting[kind] = asyncio.create_task(self._read(begun))
        answer: Answer = await asyncio.shield(task)
        return answer


class SmallBodies:
    """No request here needs a large body: one that announces it, or no length, is refused unread."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        too_long = int(headers.get(b"content-length", b"0")) > MAX_BODY_BYTES
        if not too_long and b"transfer-encoding" not in headers:
            await self._app(scope, receive, send)
            return
        error = {"error": f"a body of at most {MAX_BODY_BYTES} bytes, and its length, are expected"}
        await JsonAnswer(error, status_code=413, headers={"connection": "close"})(scope, receive, send)


def application(routes: list[Route]) -> Starlette:
    """Routes with clean answers around them: whatever is sent, {"error": …} and a status that fits."""
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
    return JsonAnswer({"error": _told(request, error)}, status_code=error.status_code, headers=error.headers)


def _told(request: Request, error: HTTPException) -> str:
    """In words of ours where they are only the status's name."""
    path = printable(request.url.path)
    if error.detail == HTTPStatus.NOT_FOUND.phrase:
        known = sorted({route.path for route in request.app.routes})
        listed = f"there are {', '.join(known)}"
        return f"{path}: no such path; {did_you_mean(path, known, listed)}"
    if error.detail == HTTPStatus.METHOD_NOT_ALLOWED.phrase:
        return (
            f"{path}: not by {request.method}, but by {(error.headers or {}).get('Allow', 'another method')}"
        )
    return error.detail


async def _explain(_request: Request, error: Exception) -> Response:
    operators_own = isinstance(error, PolicyError | PolicyErrors | ConfigError | ModeError)
    return JsonAnswer({"error": str(error)}, status_code=422 if operators_own else 500)


async def _fail(request: Request, error: Exception) -> Response:
    what = f"{type(error).__name__}: {error}"
    log.error("%s %s failed: %s", request.method, request.url.path, what)
    log.debug("%s", what, exc_info=error)
    return JsonAnswer({"error": f"the agent failed to answer: {what}"}, status_code=500)
