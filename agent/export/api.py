"""HTTP: /metrics and health on TCP; /v1/… as JSON on the unix socket only."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder
from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.errors import LicetError
from agent.export.events import flow_fields, process_fields
from agent.export.metrics import registry
from agent.export.view import Agent, JudgedListener
from agent.model import show_address

MAX_LIMIT = 100_000
FOLLOW_POLL_S = 0.2

Handler = Callable[[Request], Awaitable[Response]]


async def _on_error(_request: Request, error: Exception) -> Response:
    if isinstance(error, HTTPException):
        return JSONResponse({"error": str(error.detail)}, status_code=error.status_code)
    return JSONResponse({"error": str(error)}, status_code=422)


_HANDLERS: dict[Any, Any] = {HTTPException: _on_error, LicetError: _on_error}


def public_app(agent: Agent) -> Starlette:
    """For TCP: nothing here changes anything or names a process."""
    metrics = registry(agent)

    async def healthz(_request: Request) -> Response:
        return PlainTextResponse("ok\n")

    async def readyz(_request: Request) -> Response:
        ready = agent.ready()
        reason = "ready" if ready else "programs are attached, the policy is not in force yet"
        return JSONResponse({"ready": ready, "reason": reason}, status_code=200 if ready else 503)

    routes = [
        Route("/metrics", _metrics(metrics)),
        Route("/healthz", healthz),
        Route("/readyz", readyz),
    ]
    return Starlette(
        routes=routes,
        exception_handlers=_HANDLERS,
        middleware=[Middleware(GZipMiddleware, minimum_size=1024)],
    )


def _metrics(metrics: CollectorRegistry) -> Handler:
    async def handler(request: Request) -> Response:
        encode, content_type = choose_encoder(request.headers.get("accept", ""))
        return Response(await run_in_threadpool(encode, metrics), media_type=content_type)

    return handler


def control_app(agent: Agent) -> Starlette:
    """For the unix socket, which only root and the group licet can open."""

    def answer(read: Callable[[], Any]) -> Handler:
        async def handler(_request: Request) -> Response:
            return JSONResponse(await run_in_threadpool(read))

        return handler

    async def edges(request: Request) -> Response:
        return JSONResponse(list(await run_in_threadpool(agent.edges, _limit(request, 100))))

    async def recent(request: Request) -> Response:
        if request.query_params.get("follow") in ("1", "true"):
            lines = _follow(agent, _limit(request, 0))
            return StreamingResponse(lines, media_type="application/x-ndjson")
        return JSONResponse(list(agent.recent_events(_limit(request, 100))))

    async def reload(_request: Request) -> Response:
        return JSONResponse(await agent.reload())

    routes = [
        Route("/v1/status", answer(agent.status)),
        Route("/v1/flows", answer(lambda: [flow_fields(*one) for one in agent.flows()])),
        Route("/v1/listeners", answer(lambda: [listener_fields(one) for one in agent.listeners()])),
        Route("/v1/acceptors", answer(lambda: list(agent.acceptors()))),
        Route("/v1/edges", edges),
        Route("/v1/events", recent),
        Route("/v1/policy", answer(agent.policy)),
        Route("/v1/reload", reload, methods=["POST"]),
    ]
    return Starlette(routes=routes, exception_handlers=_HANDLERS)


def listener_fields(judged: JudgedListener) -> dict[str, Any]:
    listener = judged.listener
    return {
        "protocol": listener.protocol.name.lower(),
        "address": show_address(listener.address),
        "port": listener.port,
        "netns": listener.netns,
        "v6only": listener.v6only,
        "bind": judged.bind,
        "service": judged.service,
        "class": judged.port_class,
        "states": [state.value for state in judged.states],
        "owners": [process_fields(owner) for owner in listener.owners],
        "explanation": judged.explanation,
        "catalog": judged.catalog,
    }


def _limit(request: Request, default: int) -> int:
    text = request.query_params.get("limit", str(default))
    if not text.isdecimal() or int(text) > MAX_LIMIT:
        raise HTTPException(400, f"limit: a whole number from 0 to {MAX_LIMIT} is expected")
    return int(text)


async def _follow(agent: Agent, limit: int) -> AsyncIterator[str]:
    cursor = agent.event_cursor()
    for event in agent.recent_events(limit):
        yield json.dumps(event, ensure_ascii=False) + "\n"
    while True:
        cursor, events = agent.events_since(cursor)
        for event in events:
            yield json.dumps(event, ensure_ascii=False) + "\n"
        await asyncio.sleep(FOLLOW_POLL_S)
