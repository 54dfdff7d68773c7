import asyncio
import contextlib
import os
import select
import signal
import socket
import threading
import time
from pathlib import Path

import httpx
import pytest

from agent.errors import ConfigError
from agent.export import api, connections, health
from agent.export.client import ControlClient
from agent.export.server import Servers
from tests.fixtures.waiting import wait_for
from tests.unit.export.fake_agent import FakeAgent
from tests.unit.export.serving import serving

PATHS = ("/healthz", "/readyz", "/metrics")


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
    seen: list[bytes] = []

    def follow() -> None:
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(str(path))
            client.sendall(b"GET /v1/events?follow=1&limit=1 HTTP/1.1\r\nHost: x\r\n\r\n")
            seen.extend(iter(lambda: client.recv(65536), b""))

    with serving(agent, path):
        follower = threading.Thread(target=follow)
        follower.start()
        wait_for(lambda: b'"n":1' in b"".join(seen).replace(b" ", b""), "the follower has an event")
    follower.join(5)
    assert not follower.is_alive()
    assert b"".join(seen).endswith(b"\r\n0\r\n\r\n"), "cut off by STOP_WITHIN_S, not ended"


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
            return time.monotonic() - quiet_since[1] > 3 * api.FOLLOW_POLL_S

        wait_for(quiet, "nobody asks for events any more")


@pytest.mark.parametrize(
    "asks",
    [
        b"",
        b"GET /v1/st",
        b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\nGET /v1/st",  # with the second request it takes its time
    ],
)
def test_a_connection_that_does_not_ask_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, asks: bytes
) -> None:
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.05)
    path = tmp_path / "control.sock"
    with serving(FakeAgent(), path), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(asks)
        answer = b"".join(iter(lambda: client.recv(65536), b""))
        assert answer[9:12] == (b"200" if b"\r\n\r\n" in asks else b"")


def test_an_answer_that_nobody_takes_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connections, "REQUEST_WITHIN_S", 0.05)
    path = tmp_path / "control.sock"

    class Long(FakeAgent):
        def status(self) -> dict[str, object]:
            return {"long": "x" * 10_000_000}

    with serving(Long(), path), socket.socket(socket.AF_UNIX) as client:
        client.settimeout(5)
        client.connect(str(path))
        client.sendall(b"GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        given_up = select.poll()
        given_up.register(client, select.POLLRDHUP)
        assert given_up.poll(10_000)
        received = 0
        with contextlib.suppress(ConnectionResetError):
            while part := client.recv(1 << 20):
                received += len(part)
    assert received < 10_000_000


def test_sources_are_users_addresses_and_networks_of_ipv6() -> None:
    with socket.socket() as four, socket.socket(socket.AF_INET6) as six:
        source_of = connections.source_of
        assert source_of(four, ("127.0.0.1", 1)) == source_of(four, ("127.9.9.9", 2))
        assert source_of(six, ("::1", 1, 0, 0)) == source_of(six, ("::ffff:127.0.0.1", 1, 0, 0))
        assert source_of(four, ("10.0.0.1", 1)) != source_of(four, ("10.0.0.2", 1))
        assert source_of(four, ("10.0.0.1", 1)) == source_of(six, ("::ffff:10.0.0.1", 9, 0, 0))
        assert source_of(six, ("fd00::1", 1, 0, 0)) == source_of(six, ("fd00::2", 1, 0, 0))
        assert source_of(six, ("fd00::1", 1, 0, 0)) != source_of(six, ("fd00:0:0:1::1", 1, 0, 0))
        assert source_of(six, ("fe80::1%lo", 1, 0, 0))
    here, there = socket.socketpair()
    with here, there:
        assert source_of(here, "") == os.getuid()


def test_scrapes_that_wait_share_one_answer(tmp_path: Path) -> None:
    class Slow(FakeAgent):
        reads = 0

        def status(self) -> dict[str, object]:
            type(self).reads += 1
            time.sleep(0.2)  # time for all to come: nothing shows how many wait
            return super().status()

    with serving(Slow(), tmp_path / "control.sock") as servers:
        url = f"http://{servers.public_address}/metrics"
        assert httpx.get(url).status_code == 200
        each = Slow.reads
        found: list[int] = []
        threads = [
            threading.Thread(target=lambda: found.append(httpx.get(url, timeout=20).status_code))
            for _ in range(30)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(20)
    assert found == [200] * 30
    # the one that ran, and the one that all who came meanwhile share; a late thread may need a third
    assert Slow.reads - each <= 3 * each


def test_health_has_an_address_of_its_own(tmp_path: Path) -> None:
    with serving(FakeAgent(), tmp_path / "control.sock", health_listen="127.0.0.1:0") as servers:
        (port,) = servers.ports - {int(servers.public_address.rpartition(":")[2])}
        asked = {path: httpx.get(f"http://127.0.0.1:{port}{path}").status_code for path in PATHS}
    assert asked == {"/healthz": 200, "/readyz": 200, "/metrics": 404}


def test_a_hundred_scrapes_at_once_are_read_one_after_the_other(tmp_path: Path) -> None:
    class Counting(FakeAgent):
        now, most = 0, 0

        def status(self) -> dict[str, object]:
            type(self).now += 1
            type(self).most = max(self.most, self.now)
            time.sleep(0.001)  # another one would come meanwhile
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


class Busy(FakeAgent):
    """Its loop does nothing but answer /readyz, until it is told."""

    begun, over = threading.Event(), threading.Event()

    def why_not_ready(self) -> str:
        if threading.current_thread().name != "licet-health":
            self.begun.set()
            assert self.over.wait(20)
        return ""


def test_health_is_answered_while_the_loop_is_busy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def ask() -> list[int]:
        return [httpx.get(f"http://127.0.0.1:{port}{path}").status_code for path in PATHS[:2]]

    with serving(Busy(), tmp_path / "control.sock", "127.0.0.1:0") as servers:
        (port,) = servers.ports - {int(servers.public_address.rpartition(":")[2])}
        url = f"http://{servers.public_address}/readyz"
        occupying = threading.Thread(target=lambda: httpx.get(url, timeout=30))
        occupying.start()
        assert Busy.begun.wait(10)
        try:
            assert ask() == [200, 200]
            monkeypatch.setattr(health, "HUNG_AFTER_S", 0.1)
            wait_for(lambda: ask() == [503, 503], "it is said that the loop hangs")
            assert "hangs" in httpx.get(f"http://127.0.0.1:{port}/readyz").json()["reason"]
        finally:
            Busy.over.set()
            occupying.join(10)
        monkeypatch.undo()
        wait_for(lambda: ask() == [200, 200], "it goes on")
