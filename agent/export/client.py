"""The control socket's client: HTTP over a unix socket with the standard library. httpx would add 0.15 s
of import time to every command."""

from __future__ import annotations

import http.client
import io
import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from agent.errors import ControlError, DaemonUnreachable, LicetError, MayNotAsk

TIMEOUT_S = 30.0
READ_BYTES = 64 * 1024
"""How much of a long answer is read at once."""


class _UnixConnection(http.client.HTTPConnection):
    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("licet")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self._timeout_s)
        self.sock.connect(str(self._path))


class ControlClient:
    """Raises DaemonUnreachable if no daemon answers, MayNotAsk if this user may not open the socket, and
    ControlError if the daemon answers with an error."""

    def __init__(self, control_socket: Path, *, timeout_s: float = TIMEOUT_S) -> None:
        self._path = control_socket
        self._timeout_s = timeout_s

    def within(self, timeout_s: float) -> ControlClient:
        """A client of the same socket with another timeout."""
        return ControlClient(self._path, timeout_s=timeout_s)

    def get(self, path: str) -> Any:
        return self._value("GET", path)

    def elements(self, path: str) -> Iterator[Any]:
        """The elements of an answer that is an array, as they arrive: the daemon sends one per line."""
        with closing(_UnixConnection(self._path, self._timeout_s)) as connection:
            answer = io.BufferedReader(self._ask(connection, "GET", path), READ_BYTES)
            while (text := self._line_of(answer).strip(b",\n")) != b"]":
                if text in (b"[", b""):
                    continue
                found = self._parsed(text)
                if isinstance(found, list):  # a daemon of an earlier version sends one line
                    yield from found
                    return
                yield found

    def post(self, path: str, body: object = None) -> Any:
        """POST `body` as JSON, if there is one, and return the answer."""
        return self._value("POST", path, body)

    def lines(self, path: str) -> Iterator[Any]:
        """The values of an endless answer, one per line, as they arrive. Ends when the daemon stops."""
        with closing(_UnixConnection(self._path, None)) as connection:
            answer = self._ask(connection, "GET", path)
            while line := self._read_line(answer):
                yield self._parsed(line)

    def _value(self, method: str, path: str, body: object = None) -> Any:
        with closing(_UnixConnection(self._path, self._timeout_s)) as connection:
            answer = self._ask(connection, method, path, body)
            try:
                return self._parsed(answer.read())
            except (OSError, http.client.HTTPException) as error:
                raise self._unreachable(error, method) from error

    def _ask(
        self, connection: _UnixConnection, method: str, path: str, body: object = None
    ) -> http.client.HTTPResponse:
        try:
            connection.request(method, path, None if body is None else json.dumps(body))
            answer = connection.getresponse()
            if answer.status >= 400:
                raise ControlError(_message(answer), is_callers=answer.status < 500)
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, method) from error
        return answer

    def _line_of(self, answer: io.BufferedIOBase) -> bytes:
        """A line of an answer that does not end yet."""
        try:
            if line := answer.readline():
                return line
            raise http.client.IncompleteRead(b"")
        except (OSError, http.client.HTTPException) as error:
            raise self._unreachable(error, "GET") from error

    def _read_line(self, answer: http.client.HTTPResponse) -> bytes:
        try:
            return answer.readline()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnreachable(f"the daemon at {self._path} closed the connection") from error

    def _parsed(self, text: bytes) -> Any:
        try:
            return json.loads(text)
        except ValueError as error:
            raise ControlError(
                f"the process that answers at {self._path} is not a licet daemon: {error}"
            ) from error

    def _unreachable(self, error: Exception, method: str) -> LicetError:
        if isinstance(error, TimeoutError):
            may_do = "" if method == "GET" else ", and may still carry out the request"
            return DaemonUnreachable(
                f"the daemon at {self._path} did not answer within {self._timeout_s:g} s{may_do}",
                "see its log; `licet status` shows what the kernel programs do meanwhile",
                hangs=True,
            )
        if isinstance(error, PermissionError):
            return MayNotAsk(f"{self._path}: only root and the group licet may connect to the daemon")
        cause = error.strerror if isinstance(error, OSError) and error.strerror else str(error) or "no answer"
        return DaemonUnreachable(
            f"no daemon answers at {self._path} ({cause})",
            "start one with `licet run`, or name its configuration with --config; `licet status` shows what "
            "the kernel programs do meanwhile",
        )


def _message(answer: http.client.HTTPResponse) -> str:
    try:
        return str(json.loads(answer.read())["error"])
    except (ValueError, KeyError, TypeError):
        return f"the daemon answered {answer.status} {answer.reason}"
