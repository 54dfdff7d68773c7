"""One unary gRPC call over a unix socket (grpc.io: PROTOCOL-HTTP2), with a deadline and a bounded answer."""

from __future__ import annotations

import socket
import struct
import time
from pathlib import Path

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    Event,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
)
from h2.exceptions import H2Error

MAX_BYTES = 1024 * 1024
NOT_FOUND = 5
_STREAM = 1
_PREFIX = struct.Struct("!?I")
"""The prefix of a message: whether it is compressed, and its length."""


class CallFailed(Exception):
    """The server answered with an error; `code` is gRPC's status code."""

    def __init__(self, code: int, message: str) -> None:
        super().__init__(message or f"gRPC status {code}")
        self.code = code


def call(path: Path, method: str, request: bytes, timeout_s: float) -> bytes:
    """The message of the answer. Raises CallFailed; raises OSError if no valid gRPC answer arrives in
    time."""
    answer = _Answer()
    deadline = time.monotonic() + timeout_s
    http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
    with socket.socket(socket.AF_UNIX) as connected:
        connected.settimeout(timeout_s)
        connected.connect(str(path))
        try:
            _ask(http, method, request)
            connected.sendall(http.data_to_send())
            while not answer.ended:
                connected.settimeout(max(deadline - time.monotonic(), 0.001))
                received = connected.recv(65536)
                if not received:
                    raise ConnectionError("the connection was closed")
                for event in http.receive_data(received):
                    answer.take(event, http)
                connected.sendall(http.data_to_send())
        except (H2Error, UnicodeDecodeError) as error:
            raise OSError(f"not a gRPC answer: {error}") from error
    return answer.message()


def _ask(http: H2Connection, method: str, request: bytes) -> None:
    headers = [
        (":method", "POST"),
        (":scheme", "http"),
        (":authority", "localhost"),
        (":path", method),
        ("te", "trailers"),
        ("content-type", "application/grpc"),
    ]
    http.initiate_connection()
    http.send_headers(_STREAM, headers)
    http.send_data(_STREAM, _PREFIX.pack(False, len(request)) + request, end_stream=True)


class _Answer:
    def __init__(self) -> None:
        self.ended = False
        self._body = b""
        self._headers: dict[str, str] = {}

    def take(self, event: Event, http: H2Connection) -> None:
        if isinstance(event, ResponseReceived | TrailersReceived):
            self._headers |= {str(name): str(value) for name, value in event.headers or ()}
        elif isinstance(event, DataReceived):
            self._body += event.data or b""
            if len(self._body) > MAX_BYTES:
                raise OSError("the answer is too large")
            http.acknowledge_received_data(event.flow_controlled_length or 0, _STREAM)
        elif isinstance(event, StreamReset | ConnectionTerminated):
            raise ConnectionError("the call was reset")
        elif isinstance(event, StreamEnded):
            self.ended = True

    def message(self) -> bytes:
        status = self._headers.get("grpc-status", "")
        if status != "0":
            raise CallFailed(int(status) if status.isdecimal() else 2, self._headers.get("grpc-message", ""))
        if len(self._body) < _PREFIX.size:
            raise OSError("the answer has no message")
        compressed, length = _PREFIX.unpack_from(self._body)
        message = self._body[_PREFIX.size :]
        if compressed or len(message) != length:
            raise OSError("the answer is not one message")
        return message
