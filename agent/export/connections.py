"""Accepts connections up to a maximum. At the maximum, a connection of the source that holds the most is
closed for a new one."""

from __future__ import annotations

import asyncio
import logging
import socket
import struct
from collections import Counter
from collections.abc import Callable, Hashable
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from agent.export.agent_port import Caller
from agent.export.pieces import PIECE_BYTES

log = logging.getLogger(__name__)

REQUEST_WITHIN_S = 10.0
"""A connection that has sent no request for this long is closed."""
ANSWER_WITHIN_S = 30.0
"""A connection that does not read its answer for this long is closed, where clients are not trusted."""
FRESH_S = 1.0
"""A connection younger than this may have sent its request already. It is closed only after all older ones.
"""
ACCEPTED_AT_ONCE = 8
"""After this many accepts, the loop handles kernel events first."""
SWEEP_S = 0.5
RETRY_S = 0.2
LOG_AGAIN_S = 60.0

_CREDENTIALS = struct.Struct("=iII")
"""struct ucred (unix(7)): pid, uid, gid."""


class Connection(H11Protocol):
    """One HTTP connection. For a unix socket, `request.state.caller` is the process at the other end."""

    def __init__(self, *arguments: Any, lost: Callable[[Connection], None], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.since_s = self.loop.time()
        """Start of the current wait, in loop time: for a request, or for the client to read its answer."""
        self._lost = lost
        self._seen: object = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        transport.set_write_buffer_limits(PIECE_BYTES)
        caller = caller_of(transport.get_extra_info("socket"))
        if caller is not None:
            # each request's scope gets a copy as its `state`; the mapping itself is shared by connections
            self.app_state = {**self.app_state, "caller": caller}

    def connection_lost(self, exc: Exception | None) -> None:
        self._lost(self)
        super().connection_lost(exc)

    def on_response_complete(self) -> None:
        self.since_s = self.loop.time()
        super().on_response_complete()

    @property
    def is_answered(self) -> bool:
        """True while a request of this connection is being answered."""
        return self.cycle is not None and not self.cycle.response_complete

    def waits_for_s(self, now_s: float) -> float:
        if self.is_answered and self._seen is not self.cycle:
            self._seen, self.since_s = self.cycle, now_s
        return now_s - self.since_s


def caller_of(connection: socket.socket | None) -> Caller | None:
    if connection is None or connection.family != socket.AF_UNIX:
        return None
    raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(raw)
    return Caller(uid=uid, pid=pid)


def source_of(connection: socket.socket, peer: Any) -> Hashable:
    """The source that connections are counted by: a user; an address, or the /64 of an IPv6 one; all of
    loopback."""
    caller = caller_of(connection)
    if caller is not None:
        return caller.uid
    packed = socket.inet_pton(connection.family, peer[0].partition("%")[0])
    mapped = packed.removeprefix(bytes(10) + b"\xff\xff")
    if len(mapped) == 4:
        return "loopback" if mapped[0] == 127 else mapped
    return "loopback" if packed == bytes(15) + b"\1" else packed[:8]


class Accepting:
    """Accepts on one listening socket until it is closed. When descriptors run out, it pauses and logs that
    once per LOG_AGAIN_S."""

    def __init__(
        self,
        listener: socket.socket,
        most: int,
        make: Callable[[Callable[[Connection], None]], Connection],
        answer_within_s: float = float("inf"),
    ) -> None:
        self._listener = listener
        self._most = most
        self._make = make
        self._answer_within_s = answer_within_s
        self._sources: dict[Connection, Hashable] = {}
        self._connecting: set[asyncio.Task[None]] = set()
        self._logged_s = float("-inf")
        self._timers: dict[str, asyncio.TimerHandle] = {}

    def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._listener.setblocking(False)
        self._resume()
        self._sweep()

    def close(self) -> None:
        self._loop.remove_reader(self._listener)
        for timer in self._timers.values():
            timer.cancel()
        self._listener.close()

    def _resume(self) -> None:
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(ACCEPTED_AT_ONCE):
            try:
                connection, peer = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                self._pause(error)
                return
            self._admit(connection, source_of(connection, peer))

    def _pause(self, error: OSError) -> None:
        """Pause after EMFILE, ENFILE, ENOBUFS or ENOMEM. The listening socket stays readable meanwhile, so
        the reader must be removed."""
        self._give_way()
        self._loop.remove_reader(self._listener)
        self._timers["resume"] = self._loop.call_later(RETRY_S, self._resume)
        if self._loop.time() - self._logged_s >= LOG_AGAIN_S:
            self._logged_s = self._loop.time()
            log.warning(
                "cannot accept connections now: %s; raise LimitNOFILE of the agent", error.strerror or error
            )

    def _admit(self, connection: socket.socket, source: Hashable) -> None:
        if len(self._sources) >= self._most and not self._give_way():
            connection.close()
            return
        connection.setblocking(False)
        protocol = self._make(self._forget)
        self._sources[protocol] = source
        task = self._loop.create_task(self._connect(protocol, connection))
        self._connecting.add(task)
        task.add_done_callback(self._connecting.discard)

    async def _connect(self, protocol: Connection, connection: socket.socket) -> None:
        try:
            await self._loop.connect_accepted_socket(lambda: protocol, connection)
        except OSError:  # the client has closed it already
            connection.close()
            self._forget(protocol)

    def _forget(self, protocol: Connection) -> None:
        self._sources.pop(protocol, None)

    def _give_way(self) -> bool:
        """Close one connection of the source that holds the most. Prefer an idle connection, then the one
        that has waited longest. Return False if there is none to close."""
        now_s, held = self._loop.time(), Counter(self._sources.values())

        def rank(protocol: Connection) -> tuple[int, bool, float]:
            waits_s = protocol.waits_for_s(now_s)
            is_idle = not protocol.is_answered and waits_s > FRESH_S
            return held[self._sources[protocol]], is_idle, waits_s

        connected = [protocol for protocol in self._sources if protocol.transport is not None]
        if not connected:
            return False
        self._abort(max(connected, key=rank))
        return True

    def _sweep(self) -> None:
        now_s = self._loop.time()
        for protocol in list(self._sources):
            within_s = self._answer_within_s if protocol.is_answered else REQUEST_WITHIN_S
            if protocol.transport is not None and protocol.waits_for_s(now_s) > within_s:
                self._abort(protocol)
        self._timers["sweep"] = self._loop.call_later(SWEEP_S, self._sweep)

    def _abort(self, protocol: Connection) -> None:
        self._forget(protocol)
        protocol.transport.abort()  # close() would wait until the client has read its answer
