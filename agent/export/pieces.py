"""Sends long answers in pieces, so that a slow reader occupies little of the agent's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 32 * 1024
"""The size of a piece. The next piece is sent only after the reader has read the previous one."""
BODIES = 4


class Bodies:
    """The bodies that are being sent, each to any number of readers. If there are more than `most`, the
    readers of the oldest body are dropped. By then, another body has been made for each reader."""

    def __init__(self, most: int = BODIES) -> None:
        self._most = most
        self._readers: dict[int, set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def read(self, body: bytes) -> AsyncIterator[None]:
        """Register a reader of this body. Raises TimeoutError when the reader is dropped."""
        readers = self._readers.setdefault(id(body), set())
        while len(self._readers) > self._most:
            for late in self._readers.pop(next(iter(self._readers))):
                late.reschedule(asyncio.get_running_loop().time())
        async with asyncio.timeout(None) as patience:
            readers.add(patience)
            try:
                yield
            finally:
                readers.discard(patience)
                if self._readers.get(id(body)) is readers and not readers:
                    del self._readers[id(body)]


class InPieces(Response):
    """A response that hands one piece at a time to its connection. The connection is closed if the reader is
    dropped."""

    def __init__(self, body: bytes, bodies: Bodies, media_type: str, headers: dict[str, str]) -> None:
        super().__init__(body, media_type=media_type, headers=headers)
        self._bodies = bodies

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        start = {"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers}
        await send(start)
        body = bytes(self.body)
        try:
            async with self._bodies.read(body):
                for begin in range(0, len(body), PIECE_BYTES):
                    piece = body[begin : begin + PIECE_BYTES]
                    await send({"type": "http.response.body", "body": piece, "more_body": True})
        except TimeoutError:
            return  # the answer is incomplete, so the server closes the connection
        await send({"type": "http.response.body", "body": b""})
