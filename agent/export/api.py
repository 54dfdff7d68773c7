"""HTTP routes: /metrics and health on TCP; /v1/… as JSON on the unix socket only."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from itertools import islice
from typing import Any

from prometheus_client.exposition import gzip_accepted
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route

from agent.export.agent_port import Agent, JudgedListener
from agent.export.events import TYPES, Event, now_text, process_fields
from agent.export.families import encoder, written
from agent.export.flow_texts import FlowTexts
from agent.export.hosts import Hosts
from agent.export.http import JsonAnswer, Reader, SharedReader, application
from agent.export.metrics import Metrics
from agent.export.mode_api import mode_routes
from agent.export.pieces import Bodies, InPieces
from agent.export.sanitize import printable, to_json
from agent.model import show_address
from agent.wording import did_you_mean, whole_number

MAX_LIMIT = 100_000
FOLLOW_POLL_S = 0.2
AT_ONCE = 100
"""How many values of a long answer are serialised at once. For larger parts, malloc maps new memory each
time."""
GZIP_LEVEL = 6
GZIP_FORMAT = 16 + zlib.MAX_WBITS
"""See zlib.compressobj()."""

Handler = Callable[[Request], Awaitable[Response]]


def public_app(agent: Agent, hosts: Hosts) -> Starlette:
    """The application for TCP. No route changes anything. A process is named only where a metric names it."""
    return application([Route("/metrics", _metrics(agent, hosts)), *_health_routes(agent)])


def health_app(agent: Agent, why_dead: Callable[[], str]) -> Starlette:
    """The application for probes: health only. `why_dead` returns why the daemon's loop is not alive, or an
    empty string."""
    return application(_health_routes(agent, why_dead))


def _health_routes(agent: Agent, why_dead: Callable[[], str] = str) -> list[Route]:
    async def healthz(_request: Request) -> Response:
        why = why_dead()
        return PlainTextResponse(f"{why or 'ok'}\n", status_code=503 if why else 200)

    async def readyz(_request: Request) -> Response:
        why = why_dead() or agent.why_not_ready()
        return JsonAnswer({"ready": not why, "reason": why or "ready"}, status_code=503 if why else 200)

    return [Route("/healthz", healthz), Route("/readyz", readyz)]


def _metrics(agent: Agent, hosts: Hosts) -> Handler:
    """/metrics as text or OpenMetrics, compressed or not, as the scraper requests."""
    metrics = Metrics(agent)
    reader, bodies = SharedReader(), Bodies()

    async def handler(request: Request) -> Response:
        if refusal := hosts.refusal(request):
            return refusal
        encode, content_type = encoder(request.headers.get("accept", ""))
        compressed = gzip_accepted(request.headers.get("accept-encoding", ""))

        def scrape() -> bytes:
            pieces = written(metrics.families(), encode)
            return b"".join(_compressed(pieces) if compressed else pieces)

        headers = {"content-encoding": "gzip"} if compressed else {}
        return InPieces(await reader((content_type, compressed), scrape), bodies, content_type, headers)

    return handler


def _compressed(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """Compresses piece by piece, so that the whole text is never in memory."""
    stream = zlib.compressobj(GZIP_LEVEL, wbits=GZIP_FORMAT)
    for piece in pieces:
        yield stream.compress(piece)
    yield stream.flush()


def control_app(agent: Agent, stopping: Callable[[], bool] = lambda: False) -> Starlette:
    """The application for the unix socket, which only root and the group licet can open. `stopping` ends
    endless answers."""
    reader = Reader()

    def answer(read: Callable[[], Any]) -> Handler:
        async def handler(_request: Request) -> Response:
            return JsonAnswer(await reader(read))

        return handler

    async def edges(request: Request) -> Response:
        _refuse_unknown(request, "limit")
        limit = _limit(request, 100)
        return JsonAnswer(await reader(lambda: list(agent.edges(limit))))

    async def flows(_request: Request) -> Response:
        texts = FlowTexts()
        return await _array(reader, (texts.of(*one) for one in agent.flows()))

    async def listeners(_request: Request) -> Response:
        return await _array(reader, (to_json(listener_fields(one)) for one in agent.listeners()))

    async def events(request: Request) -> Response:
        _refuse_unknown(request, "limit", "type", "follow")
        kind = _kind(request)
        if _follows(request):
            lines = _follow(agent, _limit(request, 0), kind, stopping)
            return StreamingResponse(lines, media_type="application/x-ndjson")
        return JsonAnswer(_recent(agent, _limit(request, 100), kind))

    async def reload(_request: Request) -> Response:
        return JsonAnswer(await agent.reload())

    return application(
        [
            Route("/v1/status", answer(agent.status)),
            Route("/v1/licenses", answer(agent.licenses)),
            Route("/v1/flows", flows),
            Route("/v1/listeners", listeners),
            Route("/v1/acceptors", answer(lambda: list(agent.acceptors()))),
            Route("/v1/edges", edges),
            Route("/v1/events", events),
            Route("/v1/policy", answer(agent.policy)),
            Route("/v1/reload", reload, methods=["POST"]),
            *mode_routes(agent, reader),
        ]
    )


async def _array(reader: Reader, texts: Iterable[str]) -> Response:
    """A JSON array of these values, one per line. It is sent in parts: the values may need more memory than
    there is."""
    left = _lines(texts)

    def some() -> bytes:
        return "".join(islice(left, AT_ONCE)).encode()

    async def rest(part: bytes) -> AsyncIterator[bytes]:
        while part:
            yield part
            part = await reader(some)

    first = await reader(some)  # an error in the first part still gets an error response
    return StreamingResponse(rest(first), media_type="application/json")


def _lines(texts: Iterable[str]) -> Iterator[str]:
    before = "[\n"
    for text in texts:
        yield before + text
        before = ",\n"
    yield "[\n]\n" if before == "[\n" else "\n]\n"


def listener_fields(judged: JudgedListener) -> dict[str, Any]:
    """A listener as /v1/listeners has it."""
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
        **({"opener": process_fields(listener.opener)} if listener.opener else {}),
        "explanation": judged.explanation,
        "catalog": judged.catalog,
    }


def _refuse_unknown(request: Request, *known: str) -> None:
    """Reject unknown query parameters. A misspelt one would otherwise be ignored without a word."""
    for name in request.query_params:
        if name not in known:
            remedy = did_you_mean(name, known, f"{', '.join(known)} are known")
            raise HTTPException(400, f"{printable(name)}: no such parameter; {remedy}")


def _limit(request: Request, default: int) -> int:
    try:
        return whole_number(request.query_params.get("limit", str(default)), 0, MAX_LIMIT)
    except ValueError as error:
        raise HTTPException(400, f"limit: {error}") from None


def _kind(request: Request) -> str:
    """The event type of the query; empty: all types."""
    kind = request.query_params.get("type", "")
    if kind and kind not in TYPES:
        remedy = did_you_mean(kind, TYPES, f"{', '.join(TYPES)} are known")
        raise HTTPException(400, f"type: {printable(kind)} is not a valid event type: {remedy}")
    return kind


def _follows(request: Request) -> bool:
    given = request.query_params.get("follow", "0")
    if given not in ("0", "1", "true", "false"):
        raise HTTPException(400, f"follow: 0 or 1 is expected, not {printable(given)[:60]}")
    return given in ("1", "true")


def _recent(agent: Agent, limit: int, kind: str) -> list[Event]:
    """The newest `limit` events of one type, or of all types."""
    if not kind:
        return list(agent.recent_events(limit))
    fitting = [event for event in agent.recent_events(MAX_LIMIT) if event["type"] == kind]
    return fitting[-limit:] if limit else []


async def _follow(agent: Agent, limit: int, kind: str, stopping: Callable[[], bool]) -> AsyncIterator[str]:
    cursor = agent.event_cursor()
    for event in _recent(agent, limit, kind):
        yield to_json(event) + "\n"
    while not stopping():
        newer, events = agent.events_since(cursor)
        missed = newer - cursor - len(events)
        cursor = newer
        if missed:  # a slow reader: events it did not fetch in time are no longer stored
            yield to_json({"type": "missed", "time": now_text(), "count": missed}) + "\n"
        for event in events:
            if kind in ("", event["type"]):
                yield to_json(event) + "\n"
        await asyncio.sleep(FOLLOW_POLL_S)
