"""Connections that somebody means to take the agent's places with: others are answered all the same."""

from __future__ import annotations

import http.client
import ipaddress
import os
import resource
import select
import socket
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace, entered
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.waiting import wait_for

PORT, HEALTH_PORT = 9577, 9578
SCRAPE = b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
SLOW_HEAD = b"GET /healthz HTTP/1.1\r\nX: "


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    settings = {"listen": f"[::]:{PORT}", "health_listen": f"127.0.0.1:{HEALTH_PORT}"}
    with shared_lab.agent("version: 1\n", settings) as running:
        yield running


@contextmanager
def crowd(namespace: Namespace, address: str, many: int, says: bytes = b"") -> Iterator[list[socket.socket]]:
    """So many connections to the agent's port, which then say no more, and read nothing."""
    with ExitStack() as stack:
        held = []
        for _ in range(many):
            with entered(namespace):
                family = socket.AF_INET6 if ":" in address else socket.AF_INET
                one = stack.enter_context(socket.socket(family))
                one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
                one.settimeout(5)
                one.connect((address, PORT))
            if says:
                one.sendall(says)
            held.append(one)
        yield held


def closed(connections: list[socket.socket]) -> int:
    ends = select.poll()
    for one in connections:
        ends.register(one, select.POLLRDHUP)
    return len(ends.poll(0))


def answer(lab: Lab, namespace: Namespace, address: str, path: str, port: int = PORT) -> int:
    """The status, which has to come before a prober's patience ends."""
    return lab.http_get(namespace, address, port, path)[0]


@pytest.mark.parametrize("says", [b"", SLOW_HEAD, SCRAPE], ids=["idle", "half a request", "never reads"])
@pytest.mark.parametrize("address", ["10.77.2.1", "fd77:2::1", "127.0.0.1", "::1"])
def test_a_crowd_keeps_nobody_out(shared_lab: Lab, agent: RunningAgent, says: bytes, address: str) -> None:
    namespace = shared_lab.host if ipaddress.ip_address(address).is_loopback else shared_lab.remote
    with crowd(namespace, address, 400, says):
        for path in ("/healthz", "/readyz", "/metrics"):
            assert answer(shared_lab, shared_lab.host, "127.0.0.1", path) == 200
            assert answer(shared_lab, namespace, address, path) == 200  # a neighbour of the crowd
        assert answer(shared_lab, shared_lab.host, "127.0.0.1", "/healthz", HEALTH_PORT) == 200
        assert agent.status()["ready"] is True
    assert "Traceback" not in agent.log()


def test_whoever_holds_few_keeps_them(shared_lab: Lab, agent: RunningAgent) -> None:
    with kept_connection(shared_lab.host, "127.0.0.1") as scraper:
        assert ask(scraper) == 200
        with crowd(shared_lab.remote, "10.77.2.1", 200):
            assert ask(scraper) == 200  # the same connection, as a scraper keeps it
            assert scraper.sock is not None


@contextmanager
def kept_connection(namespace: Namespace, address: str) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(address, PORT, timeout=5)
    with entered(namespace):
        connection.connect()
    connection.auto_open = 0  # it is not made anew
    try:
        yield connection
    finally:
        connection.close()


def ask(connection: http.client.HTTPConnection) -> int:
    connection.request("GET", "/healthz")
    response = connection.getresponse()
    response.read()
    return response.status


def test_a_storm_of_connections_leaves_health_and_control_alone(shared_lab: Lab, agent: RunningAgent) -> None:
    over = threading.Event()

    def storm() -> None:
        with entered(shared_lab.remote):
            while not over.is_set():
                with socket.socket() as one:
                    one.settimeout(1)
                    try:
                        one.connect(("10.77.2.1", PORT))
                        one.sendall(b"G")
                    except OSError:
                        continue

    storms = [threading.Thread(target=storm) for _ in range(4)]
    for each in storms:
        each.start()
    try:
        for _ in range(20):
            assert answer(shared_lab, shared_lab.host, "127.0.0.1", "/healthz", HEALTH_PORT) == 200
            assert agent.status()["ready"] is True
    finally:
        over.set()
        for each in storms:
            each.join()


def test_without_descriptors_it_answers_and_is_quiet(shared_lab: Lab, agent: RunningAgent) -> None:
    used = len(os.listdir(f"/proc/{agent.pid}/fd"))
    before = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    said = len(agent.log())
    resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, (used + 20, before[1]))
    try:
        remote = shared_lab.remote
        with crowd(remote, "10.77.2.1", 50) as four, crowd(remote, "fd77:2::1", 50) as six:
            wait_for(lambda: "cannot accept connections" in agent.log()[said:], "descriptors ran out")
            assert answer(shared_lab, shared_lab.host, "127.0.0.1", "/healthz", HEALTH_PORT) == 200
            wait_for(lambda: closed([*four, *six]) >= 10, "it has tried again ten times, and closed one each")
    finally:
        resource.prlimit(agent.pid, resource.RLIMIT_NOFILE, before)
    assert answer(shared_lab, shared_lab.host, "127.0.0.1", "/healthz") == 200
    lines = [line for line in agent.log()[said:].splitlines() if "cannot accept connections" in line]
    assert len(lines) <= 2  # one for each of its sockets
    assert "Traceback" not in agent.log()


def test_it_takes_the_descriptors_it_may_have(agent: RunningAgent) -> None:
    soft, hard = resource.prlimit(agent.pid, resource.RLIMIT_NOFILE)
    assert soft == min(hard, 65536)


def test_the_unit_gives_it_descriptors() -> None:
    unit = Path(__file__).parents[2] / "packaging" / "host" / "licet.service"
    assert "LimitNOFILE=65536" in unit.read_text().splitlines()
