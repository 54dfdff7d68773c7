"""The control socket's client: HTTP over a unix socket with the standard library (httpx takes 0.15 s to
import, which every command would pay)."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from agent.errors import ControlError, DaemonUnreachable

TIMEOUT_S = 30.0


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
    """Raises DaemonUnreachable where nobody answers, ControlError where the answer is an error."""

    def __init__(self, control_socket: Path) -> None:
        self._path = control_socket

    def get(self, path: str) -> Any:
        return json.loads(self._ask("GET", path, TIMEOUT_S).read())

    def post(self, path: str) -> Any:
        return json.loads(self._ask("POST", path, TIMEOUT_S).read())

    def lines(self, path: str) -> Iterator[Any]:
        """Values of an endless answer, one a line, as they come."""
        answer = self._ask("GET", path, None)
        for line in answer:
            yield json.loads(line)

    def _ask(self, method: str, path: str, timeout_s: float | None) -> http.client.HTTPResponse:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
        except (OSError, http.client.HTTPException) as error:
            raise DaemonUnreachable(
                f"no daemon answers at {self._path} ({error}); start one with `licet run`, or name its "
                "configuration with --config"
            ) from error
        if answer.status >= 400:
            raise ControlError(_message(answer))
        return answer


def _message(answer: http.client.HTTPResponse) -> str:
    try:
        return str(json.loads(answer.read())["error"])
    except (ValueError, KeyError, TypeError):
        return f"the daemon answered {answer.status} {answer.reason}"
