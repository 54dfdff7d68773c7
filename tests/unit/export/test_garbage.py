"""What is no sensible HTTP, on the real unix socket: a clean answer, and the daemon goes on."""

import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from agent.export.client import ControlClient
from tests.unit.export.fake_agent import FakeAgent
from tests.unit.export.serving import serving

NO_LENGTH = b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"


@pytest.fixture(scope="module")
def control_socket(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    path = tmp_path_factory.mktemp("run") / "control.sock"
    with serving(FakeAgent(), path):
        yield path


def ask(path: Path, data: bytes) -> bytes:
    """All that is answered until the server closes, or has answered and waits for more."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(5)
        connection.connect(str(path))
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        answer = b""
        # a reset, behind the answer: the server closed before it had read everything
        with suppress(ConnectionResetError):
            while part := connection.recv(65536):
                answer += part
        return answer


@pytest.mark.parametrize(
    ("data", "status"),
    [
        pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(200), b"400", id="TLS"),
        pytest.param(bytes(range(256)) * 40, b"400", id="noise"),
        pytest.param(b"\r\n\r\n\r\n", b"400", id="blank lines"),
        pytest.param(b"", b"", id="nothing"),
        pytest.param(b"GET\r\n\r\n", b"400", id="no path"),
        pytest.param(b"GET /v1/status HTTP/one\r\n\r\n", b"400", id="a version there is not"),
        pytest.param(b"GET /v1/status HTTP/1.1\r\n\r\n", b"400", id="no Host"),
        pytest.param(b"GET /" + b"a" * 100_000, b"400", id="endless path"),
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 100_000, b"400", id="endless header"),
        pytest.param(b"GET /\xff\xfe HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"400", id="bytes"),
        pytest.param(b"GET /%ff%00 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404", id="escapes"),
        pytest.param(b"GET /v2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"404", id="no such path"),
        pytest.param(
            b"BREW /v1/status HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n", b"405", id="method"
        ),
        pytest.param(
            b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 99999999999\r\n\r\n" + bytes(100_000),
            b"413",
            id="huge body",
        ),
        pytest.param(NO_LENGTH + b"ffffff\r\n" + bytes(1000), b"413", id="a body of any length"),
        pytest.param(
            b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n", b"400", id="negative length"
        ),
        pytest.param(
            b"POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n",
            b"400",
            id="two lengths",
        ),
    ],
)
def test_garbage_has_a_clean_answer(control_socket: Path, data: bytes, status: bytes) -> None:
    answer = ask(control_socket, data)
    assert answer[:12].removeprefix(b"HTTP/1.1 ") == status
    assert b"Traceback" not in answer
    assert ControlClient(control_socket).get("/v1/status")["mode"] == "observe"


def test_a_websocket_is_not_served_and_does_no_harm(control_socket: Path) -> None:
    upgrade = (
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade, close\r\n"
        b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    )
    assert ask(control_socket, upgrade).startswith(b"HTTP/1.1 200")


def test_connections_that_say_nothing_do_not_keep_others_out(control_socket: Path) -> None:
    silent = []
    try:
        for _ in range(50):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            connection.connect(str(control_socket))
            connection.sendall(b"GET /v1/st")
            silent.append(connection)
        assert ControlClient(control_socket).get("/v1/status")["mode"] == "observe"
    finally:
        for connection in silent:
            connection.close()
