"""/v1/mode on the real unix socket."""

from __future__ import annotations

import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from agent.errors import ControlError, KernelError, ModeError
from agent.export import mode_api
from agent.export.agent_port import Caller, ModeRequest
from agent.export.client import ControlClient
from agent.model import Mode
from tests.unit.export.fake_agent import MODES, FakeAgent
from tests.unit.export.serving import serving

CONNECT_AS = """
import os, sys
from pathlib import Path
from agent.export.client import ControlClient
if os.getuid() == 0:
    os.setuid(int(sys.argv[2]))
ControlClient(Path(sys.argv[1])).post("/v1/mode", {"mode": "observe"})
print(os.getpid(), os.getuid())
"""


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[FakeAgent, Path]]:
    """One server for all: a stop takes longer than most of these tests."""
    agent, path = FakeAgent(), tmp_path_factory.mktemp("run") / "control.sock"
    with serving(agent, path):
        yield agent, path


@pytest.fixture
def agent(served: tuple[FakeAgent, Path]) -> FakeAgent:
    agent = served[0]
    agent.mode_requests, agent.fails_with, agent.turns_to_enforce = [], None, []
    return agent


@pytest.fixture
def control_socket(agent: FakeAgent, served: tuple[FakeAgent, Path]) -> Path:
    return served[1]


def post(path: Path, body: bytes, url: str = "/v1/mode") -> tuple[int, dict[str, Any]]:
    with httpx.Client(
        transport=httpx.HTTPTransport(uds=str(path), verify=False), base_url="http://licet"
    ) as client:
        answer = client.post(url, content=body)
    return answer.status_code, answer.json()


def test_what_holds_is_read(control_socket: Path) -> None:
    assert ControlClient(control_socket).get("/v1/mode") == dict(MODES)


def test_a_request_reaches_the_agent_with_its_caller(control_socket: Path, agent: FakeAgent) -> None:
    client = ControlClient(control_socket)
    client.post("/v1/mode", {"mode": "enforce", "target": "orders-db/admin", "for_s": 600})
    client.post("/v1/mode", {"mode": None})
    me = Caller(uid=os.getuid(), pid=os.getpid())
    assert agent.mode_requests == [
        (ModeRequest("orders-db/admin", Mode.ENFORCE, 600.0), me),
        (ModeRequest(None, None), me),
    ]


def test_the_caller_is_who_the_kernel_says_it_is(agent: FakeAgent) -> None:
    """Two other users at once: neither is taken for the other, nor for us."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "control.sock"
        with serving(agent, path):
            Path(folder).chmod(0o711)
            path.chmod(0o666)
            runs = [
                subprocess.Popen(
                    [sys.executable, "-c", CONNECT_AS, str(path), str(uid)], stdout=subprocess.PIPE, text=True
                )
                for uid in (4242, 4343)
            ]
            told = [tuple(map(int, run.communicate(timeout=30)[0].split())) for run in runs]
    assert sorted((caller.pid, caller.uid) for _, caller in agent.mode_requests) == sorted(told)
    if os.getuid() == 0:
        assert {uid for _, uid in told} == {4242, 4343}


def test_requests_on_one_connection_have_one_caller(control_socket: Path, agent: FakeAgent) -> None:
    with socket.socket(socket.AF_UNIX) as plain:
        plain.connect(str(control_socket))
        for _ in range(2):
            body = b'{"mode":"observe"}'
            head = f"POST /v1/mode HTTP/1.1\r\nHost: x\r\nContent-Length: {len(body)}\r\n\r\n"
            plain.sendall(head.encode() + body)
            answer = http.client.HTTPResponse(plain)
            answer.begin()
            assert answer.status == 200
            answer.read()
    assert len({caller for _, caller in agent.mode_requests}) == 1


def test_a_preview_changes_nothing(control_socket: Path, agent: FakeAgent) -> None:
    agent.turns_to_enforce = [{"service": "orders-db", "class": "admin"}]
    found = ControlClient(control_socket).post("/v1/mode/preview", {"mode": "enforce", "target": "orders-db"})
    assert (found["scope"], found["turns_to_enforce"]) == ("orders-db", agent.turns_to_enforce)
    assert agent.mode_requests == []


def test_who_asks_for_the_status_does_not_wait_for_a_preview(
    control_socket: Path, agent: FakeAgent, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, answered = threading.Event(), threading.Event()

    def slow(_agent: FakeAgent, _request: ModeRequest) -> dict[str, Any]:
        begun.set()
        return {"waited": answered.wait(20)}

    monkeypatch.setattr(FakeAgent, "mode_preview", slow)
    client = ControlClient(control_socket)
    with ThreadPoolExecutor() as pool:
        preview = pool.submit(client.post, "/v1/mode/preview", {"mode": "enforce"})
        assert begun.wait(10)
        assert client.get("/v1/status")["ready"]
        answered.set()
        assert preview.result(10) == {"waited": True}


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "a JSON object is expected"),
        (b"{", 400, "a JSON object is expected"),
        (b"\xff\xfe\x00", 400, "a JSON object is expected"),
        (b"[" * 60000, 400, "a JSON object is expected"),
        (b"[]", 422, "body:"),
        (b"null", 422, "body:"),
        (b"{}", 422, "mode: is missing"),
        (b'{"mode": "block"}', 422, "mode: observe or enforce is expected, not block"),
        (b'{"mode": ["enforce"]}', 422, "mode:"),
        (b'{"mode": "enforce", "target": 7}', 422, "target:"),
        (b'{"mode": "enforce", "target": ""}', 422, "target:"),
        (b'{"mode": "enforce", "for_s": 0}', 422, "for_s:"),
        (b'{"mode": "enforce", "for_s": -5}', 422, "for_s:"),
        (b'{"mode": "enforce", "for_s": NaN}', 422, "for_s:"),
        (b'{"mode": "enforce", "for_s": 1e300}', 422, "for_s:"),
        (b'{"mode": "enforce", "for_s": "10"}', 422, "for_s:"),
        (b'{"mode": "enforce", "for_s": true}', 422, "for_s:"),
        (b'{"mode": "enforce", "fors": 10}', 422, "fors:"),
        (b'{"mode": null, "for_s": 10}', 422, "for_s: a reset has no deadline"),
        (b'{"mode": "enforce", "for_s": ' + b"9" * 5000 + b"}", 400, "a JSON object is expected"),
    ],
)
def test_a_body_that_makes_no_sense_is_told_why(
    control_socket: Path, agent: FakeAgent, body: bytes, status: int, message: str
) -> None:
    for url in ("/v1/mode", "/v1/mode/preview"):
        got, answer = post(control_socket, body, url)
        assert (got, message in answer["error"]) == (status, True), answer
        assert "Traceback" not in answer["error"]
    assert agent.mode_requests == []


def test_a_body_that_does_not_come_is_not_waited_for(
    control_socket: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mode_api, "BODY_WITHIN_S", 0.05)
    with socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(control_socket))
        client.sendall(b"POST /v1/mode HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n")
        assert client.recv(100).startswith(b"HTTP/1.1 408")


@pytest.mark.parametrize(
    ("error", "status"), [(ModeError("no service 'x'"), 422), (KernelError("a gate is missing"), 500)]
)
def test_what_the_agent_refuses_is_said_in_its_words(
    control_socket: Path, agent: FakeAgent, error: Exception, status: int
) -> None:
    agent.fails_with = error
    assert post(control_socket, b'{"mode": "enforce"}') == (status, {"error": str(error)})
    with pytest.raises(ControlError, match=str(error)):
        ControlClient(control_socket).post("/v1/mode", {"mode": "enforce"})


def test_nothing_of_it_is_on_tcp(agent: FakeAgent, tmp_path: Path) -> None:
    with serving(agent, tmp_path / "other.sock") as servers:
        base = f"http://{servers.public_address}"
        assert httpx.get(f"{base}/v1/mode").status_code == 404
        assert httpx.post(f"{base}/v1/mode", json={"mode": "enforce"}).status_code == 404
    assert agent.mode_requests == []
