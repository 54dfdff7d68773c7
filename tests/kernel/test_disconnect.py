"""Ending a connection through the descriptor of whoever holds it: for kernels without SOCK_DESTROY."""

from __future__ import annotations

import errno
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from agent.daemon.enforcement.flow_cutter import end
from agent.enforce.sock_destroy import CannotDestroy, Cutter, Established
from agent.enforce.sock_disconnect import disconnect, processes
from agent.model import Decision, Flow, Origin, Process, Protocol, Reason, Verdict, to_address
from tests.fixtures.processes import PYTHON

pytestmark = pytest.mark.root

ENDED = {str(number) for number in (errno.ECONNRESET, errno.EPIPE, errno.ECONNABORTED)}
CLIENT = """
import socket, sys
client = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
print(int.from_bytes(client.getsockopt(socket.SOL_SOCKET, 57, 8), "little"), flush=True)
try:
    print(client.recv(1), flush=True)
except OSError as error:
    print(error.errno, flush=True)
"""


class Pair:
    """A connection between a process and this one."""

    def __init__(self, listening: socket.socket) -> None:
        port = listening.getsockname()[1]
        self.client = subprocess.Popen([PYTHON, "-Ic", CLIENT, str(port)], stdout=subprocess.PIPE, text=True)
        self.server, _ = listening.accept()
        self.cookie = int(self._line())

    def _line(self) -> str:
        assert self.client.stdout is not None
        return self.client.stdout.readline().strip()

    def ended_with(self) -> str:
        """What the process's recv() gave: a number of an error, or bytes."""
        return self._line()

    def close(self) -> None:
        self.server.close()
        self.client.kill()
        self.client.communicate()


@pytest.fixture
def pairs() -> Iterator[list[Pair]]:
    with ExitStack() as cleanup, socket.create_server(("127.0.0.1", 0)) as listening:
        made = [Pair(listening) for _ in range(2)]
        for pair in made:
            cleanup.callback(pair.close)
        yield made


def test_both_ends_get_a_reset_and_nobody_else(pairs: list[Pair]) -> None:
    ended, kept = pairs
    assert disconnect(ended.cookie, [os.getpid(), ended.client.pid])
    assert ended.ended_with() in ENDED
    with pytest.raises(ConnectionResetError):
        ended.server.recv(1)
    kept.server.sendall(b"x")
    assert kept.ended_with() == "b'x'"


def test_whoever_holds_the_socket_is_found(pairs: list[Pair]) -> None:
    assert disconnect(pairs[0].cookie, processes())
    assert pairs[0].ended_with() in ENDED


def test_a_socket_that_nobody_holds_is_gone(pairs: list[Pair]) -> None:
    gone = pairs[0].client.pid
    pairs[0].client.kill()
    pairs[0].client.wait()
    assert not disconnect(pairs[0].cookie, [gone, os.getpid()])
    assert not disconnect(pairs[1].cookie, [os.getpid()]), "this process holds the other end"


class WithoutDestroy(Cutter):
    """On a kernel that was built without it."""

    def cut(self, one: Established) -> bool:
        raise CannotDestroy(str(one.cookie))


@pytest.mark.parametrize("cutter", [Cutter, WithoutDestroy])
def test_a_flow_is_ended_on_either_kernel(pairs: list[Pair], cutter: type[Cutter]) -> None:
    ended = pairs[0]
    with cutter() as here:
        assert end(here, flow_of(ended))
        assert ended.ended_with() in ENDED
        with pytest.raises(ConnectionResetError):
            ended.server.recv(1)


def flow_of(pair: Pair) -> Flow:
    loopback = to_address("127.0.0.1")
    return Flow(
        cookie=pair.cookie,
        target=1,
        verdict=Verdict(Decision.ALLOWED, Reason.LICENSED, target=1),
        origin=Origin.LOOPBACK,
        protocol=Protocol.TCP,
        consumer=Process(pid=pair.client.pid, start_boot_ns=0),
        consumer_address=loopback,
        consumer_port=pair.server.getpeername()[1],
        address=loopback,
        port=pair.server.getsockname()[1],
        opened_boot_ns=0,
        owner=None,
        acceptor=None,
        established=True,
    )
