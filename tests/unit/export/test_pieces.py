from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

from agent.export.pieces import PIECE_BYTES, Bodies, InPieces

Message = dict[str, Any]


class Reader:
    """Of one answer: takes so many pieces of it, and then no more."""

    def __init__(self, takes: float = float("inf")) -> None:
        self.got: list[Message] = []
        self.is_stuck = False
        self._takes = takes

    async def send(self, message: Message) -> None:
        if len(self.got) > self._takes:
            self.is_stuck = True
            await asyncio.Event().wait()
        self.got.append(message)
        await asyncio.sleep(0)

    @property
    def body(self) -> bytes:
        return b"".join(message.get("body", b"") for message in self.got)

    @property
    def is_whole(self) -> bool:
        return self.got[-1]["type"] == "http.response.body" and not self.got[-1].get("more_body")


async def _receive() -> Message:
    raise AssertionError("nothing is read")


def answer(reader: Reader, body: bytes, bodies: Bodies) -> Coroutine[Any, Any, None]:
    return InPieces(body, bodies, "text/plain", {})({"type": "http"}, _receive, reader.send)  # type: ignore[arg-type]


async def stuck(readers: list[Reader]) -> None:
    while not all(reader.is_stuck for reader in readers):
        await asyncio.sleep(0)


def run(scenario: Callable[[], Coroutine[Any, Any, None]]) -> None:
    asyncio.run(asyncio.wait_for(scenario(), 10))


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES, 3 * PIECE_BYTES + 1])
def test_a_body_arrives_whole_in_pieces(size: int) -> None:
    body = bytes(range(256)) * (size // 256) + bytes(size % 256)
    reader = Reader()
    run(lambda: answer(reader, body, Bodies()))
    assert reader.body == body
    assert reader.is_whole
    assert dict(reader.got[0]["headers"])[b"content-length"] == str(len(body)).encode()
    assert all(len(message.get("body", b"")) <= PIECE_BYTES for message in reader.got)


def test_readers_of_the_oldest_body_are_given_up_for_a_new_one() -> None:
    async def scenario() -> None:
        bodies = Bodies(most=2)
        slow = [Reader(takes=1) for _ in range(3)]
        old, older = bytes(2 * PIECE_BYTES), b"o" * 2 * PIECE_BYTES
        tasks = [
            asyncio.create_task(answer(slow[n], body, bodies)) for n, body in enumerate((older, older, old))
        ]
        await stuck(slow)
        quick = Reader()
        await answer(quick, b"n" * 2 * PIECE_BYTES, bodies)
        assert quick.is_whole
        await asyncio.gather(*tasks[:2])  # both ended, without an error
        assert not any(reader.is_whole for reader in slow)
        assert not tasks[2].done()
        tasks[2].cancel()

    run(scenario)


def test_a_body_that_all_have_read_takes_no_place() -> None:
    async def scenario() -> None:
        bodies = Bodies(most=1)
        for number in range(3):
            reader = Reader()
            await answer(reader, bytes([number]) * 3 * PIECE_BYTES, bodies)
            assert reader.is_whole
        waiting = Reader(takes=1)
        task = asyncio.create_task(answer(waiting, bytes(2 * PIECE_BYTES), bodies))
        await stuck([waiting])
        assert not task.done()
        task.cancel()

    run(scenario)
