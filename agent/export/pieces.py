"""Long answers to whoever asks: a reader that takes its time holds little of the agent's memory."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

PIECE_BYTES = 32 * 1024
"""So much of an answer is handed to a connection before its reader has taken what came before."""
BODIES = 4


class Bodies:
    """Those that are being sent, each to any number of readers. Where there would be more than `most`, the
    readers of the oldest are given up: another body has been made for each reader since."""

    def __init__(self, most: int = BODIES) -> None:
        self._most = most
        self._readers: dict[int, set[asyncio.Timeout]] = {}

    @asynccontextmanager
    async def read(self, body: bytes) -> AsyncIterator[None]:
        """Raises TimeoutError where the reader is given up."""
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
    """A body of which a connection has one piece at a time. The connection is closed where it is given up."""

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
            return  # half an answer: the server closes the connection
        await send({"type": "http.response.body", "body": b""})
