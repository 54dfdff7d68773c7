import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent.errors import ControlError, DaemonUnreachable, KernelError, ModeError
from agent.export.api import AT_ONCE
from agent.export.client import ControlClient
from tests.unit.export.fake_agent import INTERNAL, FakeAgent, flow
from tests.unit.export.serving import serving


@contextmanager
def answering(path: Path, data: bytes) -> Iterator[ControlClient]:
    """A server that says `data` to the first who asks, and hangs up."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(data)

        thread = threading.Thread(target=serve)
        thread.start()
        yield ControlClient(path)
        thread.join(5)


def test_no_daemon_is_said_with_the_socket_and_how_to_start_one(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with pytest.raises(DaemonUnreachable, match=r"control\.sock.*licet run.*--config"):
        ControlClient(path).get("/v1/status")


def test_a_socket_whose_daemon_is_gone_is_the_same(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    with pytest.raises(DaemonUnreachable, match="Connection refused"):
        ControlClient(path).get("/v1/status")


def test_an_error_of_the_daemon_is_told_in_its_words(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(FakeAgent(fails_with=KernelError("map flows is gone")), path):
        with pytest.raises(ControlError, match=r"^map flows is gone$"):
            ControlClient(path).post("/v1/reload")
        with pytest.raises(ControlError, match=r"^/v1/none: no such path; did you mean '/v1/mode'\?$"):
            ControlClient(path).get("/v1/none")


def test_a_daemon_that_hangs_up_or_is_none_is_no_traceback(tmp_path: Path) -> None:
    length = b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n{"
    with answering(tmp_path / "a", b"") as client, pytest.raises(DaemonUnreachable):
        client.get("/")
    with answering(tmp_path / "b", length) as client, pytest.raises(DaemonUnreachable):
        client.get("/")
    with answering(tmp_path / "c", b"SSH-2.0-OpenSSH\r\n") as client, pytest.raises(DaemonUnreachable):
        client.get("/")
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\n<html>"
    with answering(tmp_path / "d", page) as client, pytest.raises(ControlError, match="not a licet daemon"):
        client.get("/")
    failed = b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n"
    with answering(tmp_path / "e", failed) as client, pytest.raises(ControlError, match="502 Bad Gateway"):
        client.get("/")


@pytest.mark.parametrize("many", [0, 1, AT_ONCE, 2 * AT_ONCE + 1])
def test_a_list_comes_one_element_after_the_other(tmp_path: Path, many: int) -> None:
    agent = FakeAgent(flow_rows=[(INTERNAL, flow(cookie=number)) for number in range(many)])
    with serving(agent, tmp_path / "control.sock"):
        client = ControlClient(tmp_path / "control.sock")
        assert list(client.elements("/v1/flows")) == client.get("/v1/flows")
        first = next(client.elements("/v1/flows"), None)
        assert first == (client.get("/v1/flows")[0] if many else None)


@pytest.mark.parametrize("body", [b"[]", b'[{"a":1},{"b":2}]'])
def test_a_list_of_an_earlier_version_is_one_line(tmp_path: Path, body: bytes) -> None:
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    with answering(tmp_path / "a", head + body) as client:
        assert list(client.elements("/")) == json.loads(body)


@pytest.mark.parametrize(
    "said",
    [
        b"",
        b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n[\n{},\n{}",
        b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n[\n{},\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n7\r\n[\n{},\n\r\n",
    ],
)
def test_a_list_that_breaks_off_is_no_short_list(tmp_path: Path, said: bytes) -> None:
    with answering(tmp_path / "a", said) as client, pytest.raises(DaemonUnreachable):
        list(client.elements("/"))


def test_a_list_of_somebody_else_is_no_traceback(tmp_path: Path) -> None:
    page = b"HTTP/1.1 200 OK\r\nContent-Length: 7\r\n\r\n<html>\n"
    with answering(tmp_path / "a", page) as client, pytest.raises(ControlError, match="not a licet daemon"):
        list(client.elements("/"))


def test_a_daemon_that_never_answers_is_given_up(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        with pytest.raises(DaemonUnreachable, match=r"did not answer within 0\.05 s;"):
            ControlClient(path, timeout_s=0.05).get("/v1/status")
        with pytest.raises(
            DaemonUnreachable, match=r"did not answer within 0\.05 s, and may still carry out the request"
        ):
            ControlClient(path, timeout_s=0.05).post("/v1/reload")


def test_what_the_caller_got_wrong_is_a_mistake_of_usage(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    agent = FakeAgent(fails_with=ModeError("no service 'x'"))
    with serving(agent, path):
        for fails_with, code in ((ModeError("no service 'x'"), 2), (KernelError("map flows is gone"), 1)):
            agent.fails_with = fails_with
            with pytest.raises(ControlError) as refused:
                ControlClient(path).post("/v1/reload")
            assert refused.value.exit_code == code


def test_lines_end_when_the_daemon_goes_away(tmp_path: Path) -> None:
    chunked = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    with answering(tmp_path / "a", chunked + b'8\r\n{"n":1}\n\r\n0\r\n\r\n') as client:
        assert list(client.lines("/")) == [{"n": 1}]
    with answering(tmp_path / "b", chunked + b'8\r\n{"n":1}\n\r\nff') as client:
        lines = client.lines("/")
        assert next(lines) == {"n": 1}
        with pytest.raises(DaemonUnreachable, match="closed the connection"):
            next(lines)
