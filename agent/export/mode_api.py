"""/v1/mode shows which targets enforce, previews what would be refused, and sets or resets a mode. On the
unix socket only."""

from __future__ import annotations

import asyncio
import json
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from agent.export.agent_port import LONGEST_S, Agent, Caller, ModeRequest
from agent.export.http import JsonAnswer, Reader
from agent.model import Mode
from agent.wording import what_is_wrong

BODY_WITHIN_S = 10.0


class _Body(BaseModel):
    """{"mode": "observe" | "enforce" | null, "target": "service[/class]" | null, "for_s": seconds | null}"""

    model_config = ConfigDict(extra="forbid")

    mode: Mode | None
    target: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    for_s: Annotated[float, Field(gt=0, le=LONGEST_S, strict=True)] | None = None


def mode_routes(agent: Agent, reader: Reader) -> list[Route]:
    judging = Reader()  # a separate queue: a preview takes seconds if there were many consumers

    async def modes(_request: Request) -> Response:
        return JsonAnswer(await reader(agent.modes))

    async def preview(request: Request) -> Response:
        asked = await _asked(request)
        return JsonAnswer(await judging(lambda: agent.mode_preview(asked)))

    async def switch(request: Request) -> Response:
        caller = getattr(request.state, "caller", None)
        if not isinstance(caller, Caller):
            raise HTTPException(403, "the caller is not known: use the control socket")
        return JsonAnswer(await agent.set_mode(await _asked(request), caller))

    return [
        Route("/v1/mode", modes),
        Route("/v1/mode", switch, methods=["POST"]),
        Route("/v1/mode/preview", preview, methods=["POST"]),
    ]


async def _asked(request: Request) -> ModeRequest:
    try:
        async with asyncio.timeout(BODY_WITHIN_S):
            raw = await request.body()
    except TimeoutError:
        raise HTTPException(408, "the announced body did not arrive") from None
    except ClientDisconnect:
        raise HTTPException(400, "the client closed the connection before its body had arrived") from None
    try:
        body = _Body.model_validate(json.loads(raw))
    except ValidationError as error:
        raise HTTPException(422, "; ".join(_reason(detail) for detail in error.errors())) from None
    except (ValueError, RecursionError):
        raise HTTPException(400, 'a JSON object is expected, such as {"mode": "observe"}') from None
    if body.mode is None and body.for_s is not None:
        raise HTTPException(422, "for_s: a reset has no deadline; leave for_s out, or name a mode")
    return ModeRequest(scope=body.target, mode=body.mode, for_s=body.for_s)


def _reason(detail: Any) -> str:
    return f"{'.'.join(str(part) for part in detail['loc']) or 'body'}: {what_is_wrong(detail)}"
