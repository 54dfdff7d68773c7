import asyncio
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from agent.errors import ConfigError
from agent.export import server
from agent.export.client import ControlClient
from agent.export.server import Servers
from tests.fixtures.waiting import wait_for
from tests.unit.export.fake_agent import FakeAgent
from tests.unit.export.serving import serving


def test_metrics_are_on_tcp_and_control_on_the_unix_socket(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    with serving(FakeAgent(), path) as servers:
        base = f"http://{servers.public_address}"
        assert "licet_build_info" in httpx.get(f"{base}/metrics").text
        assert httpx.get(f"{base}/v1/status").status_code == 404
        assert ControlClient(path).get("/v1/status")["mode"] == "observe"
    assert not path.exists()
    with pytest.raises(httpx.ConnectError):
        httpx.get(f"{base}/healthz")


def test_a_follower_does_not_hold_up_the_stop(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    agent = FakeAgent()
    agent.log.write({"type": "use", "n": 1})
    seen: list[object] = []

    def follow() -> None:
        seen.extend(ControlClient(path).lines("/v1/events?follow=1&limit=1"))

    with serving(agent, path):
        follower = threading.Thread(target=follow)
        follower.start()
        wait_for(lambda: seen, "the follower has an event")
        started_s = time.monotonic()
    follower.join(5)
    assert not follower.is_alive()
    assert seen == [{"type": "use", "n": 1}]
    assert time.monotonic() - started_s < server.STOP_WITHIN_S  # it was not cut off by the deadline


def test_a_follower_that_left_is_forgotten(tmp_path: Path) -> None:
    path = tmp_path / "control.sock"
    agent = FakeAgent()
    asked: list[int] = []
    since = agent.log.since
    agent.log.since = lambda cursor: (asked.append(cursor), since(cursor))[1]  # type: ignore[method-assign]
    with serving(agent, path):
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /v1/events?follow=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            wait_for(lambda: asked, "the follower is served")
        quiet_since = [len(asked), time.monotonic()]

        def quiet() -> bool:
            if len(asked) != quiet_since[0]:
                quiet_since[:] = [len(asked), time.monotonic()]
            return time.monotonic() - quiet_since[1] > 0.6  # three polls

        wait_for(quiet, "nobody asks for events any more")


def test_a_connection_that_never_asks_is_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server, "FIRST_REQUEST_WITHIN_S", 0.05)
    path = tmp_path / "control.sock"
    with serving(FakeAgent(), path), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"GET /v1/st")
        assert client.recv(100) == b""


def test_a_hundred_scrapes_at_once_are_read_one_after_the_other(tmp_path: Path) -> None:
    class Counting(FakeAgent):
        now, most = 0, 0

        def status(self) -> dict[str, object]:
            type(self).now += 1
            type(self).most = max(self.most, self.now)
            time.sleep(0.001)
            type(self).now -= 1
            return super().status()

    path = tmp_path / "control.sock"
    with serving(Counting(), path):
        threads = [threading.Thread(target=ControlClient(path).get, args=("/v1/status",)) for _ in range(100)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(10)
    assert Counting.most == 1


def test_signal_handlers_are_left_to_the_daemon(tmp_path: Path) -> None:
    async def handlers() -> tuple[object, object]:
        before = signal.getsignal(signal.SIGTERM)
        async with Servers(FakeAgent(), "127.0.0.1:0", tmp_path / "control.sock"):
            return before, signal.getsignal(signal.SIGTERM)

    before, during = asyncio.run(handlers())
    assert before == during


def test_a_socket_that_can_not_be_had_leaves_none_behind(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ConfigError, match="in use"):
            Servers(FakeAgent(), address, tmp_path / "control.sock")
    assert not (tmp_path / "control.sock").exists()
