"""With TCP_FASTOPEN_CONNECT, connect() sends nothing: the SYN leaves at the first write. What was said at
connect() may hold no more by then, and who writes may be somebody else."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta

import pytest

from tests.e2e.test_local_routes import stopped
from tests.fixtures import processes
from tests.fixtures.full_flows import full_of_flows
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import all_closed, connections, since, told, violations
from tests.fixtures.waiting import wait_for

PORT, ELSEWHERE, LICENSED, UNLICENSED = 7491, 7492, 1001, 1002
POLICY = f"""\
version: 1
services:
  db: {{product: acme, ports: [{{port: {PORT}, class: internal}}]}}
  far: {{product: acme, at: [10.77.2.2], ports: [{{port: {ELSEWHERE}, class: internal}}]}}
principals:
  licensed: [{{uid: {LICENSED}}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [licensed]}}]}}
enforcement: {{default: enforce}}
"""
REVOKED = POLICY.replace(f"uid: {LICENSED}", "uid: 1999")
DEFERRED = """
import errno, os, select, socket, sys
uid, protocol, host, port = int(sys.argv[1]), *sys.argv[2:4], int(sys.argv[4])
sock = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM, int(protocol))
sock.settimeout(10)
sock.setsockopt(socket.IPPROTO_TCP, 30, 1)  # TCP_FASTOPEN_CONNECT
sock.setsockopt(socket.IPPROTO_TCP, 34, 1)  # TCP_FASTOPEN_NO_COOKIE: it need not have been there before
os.seteuid(uid)
def say(what):
    print(what, flush=True)
    sys.stdin.readline()
try:
    sock.connect((host, port))
    say("connected")
    writer = sys.argv[5:]
    if writer:
        os.seteuid(0)
        os.seteuid(int(writer[0]))
    sock.sendall(b"x")
    assert sock.recv(1) == b"x"
    print("ok", flush=True)
except OSError as error:
    print(errno.errorcode[error.errno or 0], flush=True)
"""


class Deferred:
    """A process that has called connect() and sends nothing until it is told to."""

    def __init__(
        self,
        lab: Lab,
        address: str = "127.0.0.1",
        port: int = PORT,
        *,
        uid: int = LICENSED,
        writer: int | None = None,
        protocol: int = 0,
    ) -> None:
        said = [str(one) for one in (uid, protocol, address, port, *([] if writer is None else [writer]))]
        self.process = lab.run(
            lab.host,
            [processes.PYTHON, "-ISc", DEFERRED, *said],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._line() == "connected"

    def _line(self) -> str:
        assert self.process.stdout
        return self.process.stdout.readline().strip()

    def write(self) -> str:
        """ "ok", or the name of the error."""
        assert self.process.stdin
        self.process.stdin.write("go\n")
        self.process.stdin.flush()
        said = self._line()
        processes.end(self.process)
        return said


@pytest.fixture(scope="module", params=[[], ["*"]], ids=["socket gate alone", "with the packet gate"])
def agent(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[RunningAgent]:
    server = shared_lab.serve(shared_lab.host, "::", PORT)
    with shared_lab.agent(POLICY, {"scope": {"interfaces": request.param}}) as running:
        running.wait_until_it_stands_by()
        yield running
    processes.end(server)


@contextmanager
def policy(agent: RunningAgent, text: str) -> Iterator[None]:
    agent.set_policy(text)
    try:
        yield
    finally:
        agent.set_policy(POLICY)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1", "10.77.2.1"])
def test_who_loses_the_right_before_the_first_write_is_refused(
    shared_lab: Lab, agent: RunningAgent, address: str
) -> None:
    before, refused = connections(agent, "db"), agent.total("licet_refused_total", service="db")
    waiting = Deferred(shared_lab, address)
    with policy(agent, REVOKED):
        assert waiting.write() == "ECONNREFUSED"
        assert since(before, agent, "db") == {("loopback", "allowed"): 1, ("loopback", "denied"): 1}
        assert agent.total("licet_refused_total", service="db") == refused + 1


@pytest.mark.parametrize("protocol", [0, 262], ids=["tcp", "mptcp"])
def test_who_keeps_it_counts_once(shared_lab: Lab, agent: RunningAgent, protocol: int) -> None:
    before, opened = connections(agent, "db"), all_closed(agent, "db")
    waiting = Deferred(shared_lab, protocol=protocol)
    with policy(agent, POLICY + "# of another generation\n"):
        assert waiting.write() == "ok"
        assert since(before, agent, "db") == {("loopback", "allowed"): 1}
        assert all_closed(agent, "db") == opened + 1


def test_who_gets_the_right_meanwhile_has_been_refused_already(shared_lab: Lab, agent: RunningAgent) -> None:
    """In enforce connect() is EPERM. In observe it was denied, and what comes of it is allowed."""
    before = connections(agent, "db")
    observe = POLICY.replace("default: enforce", "default: observe")
    with policy(agent, observe):
        waiting, other = Deferred(shared_lab, uid=UNLICENSED), Deferred(shared_lab, uid=UNLICENSED)
    assert other.write() == "ECONNREFUSED", "by the mode that is in force when it is sent"
    assert since(before, agent, "db") == {("loopback", "denied"): 2}
    with policy(agent, POLICY.replace(f"uid: {LICENSED}", f"uid: {UNLICENSED}")):
        assert waiting.write() == "ok"
    assert since(before, agent, "db") == {("loopback", "denied"): 2, ("loopback", "allowed"): 1}


def test_who_writes_is_judged(shared_lab: Lab, agent: RunningAgent) -> None:
    before = connections(agent, "db")
    waiting = Deferred(shared_lab, writer=UNLICENSED)
    wait_for(lambda: since(before, agent, "db"), "connect() is counted")
    assert waiting.write() == "ECONNREFUSED"
    assert since(before, agent, "db") == {("loopback", "allowed"): 1, ("loopback", "denied"): 1}


def test_a_license_that_ends_in_between_with_no_daemon(shared_lab: Lab, agent: RunningAgent) -> None:
    ends = datetime.now(UTC) + timedelta(seconds=8)
    ending = POLICY.replace("id: acme, product", f"id: acme, expires_at: '{ends.isoformat()}', product")
    before = connections(agent, "db")
    with policy(agent, ending):
        waiting, other = Deferred(shared_lab), Deferred(shared_lab)
        with stopped(agent):
            assert other.write() == "ok"
            wait_for(lambda: datetime.now(UTC) > ends, "it has ended", timeout_s=20)
            assert waiting.write() == "ECONNREFUSED"
        assert since(before, agent, "db") == {("loopback", "allowed"): 2, ("loopback", "denied"): 1}
        assert violations(agent, "db")["expired"] == 1


def test_nor_where_there_is_no_room_for_a_flow(shared_lab: Lab, agent: RunningAgent) -> None:
    with full_of_flows(agent):
        waiting = Deferred(shared_lab)
        with policy(agent, REVOKED):
            assert waiting.write() == "ECONNREFUSED"
            unprotected = agent.total("licet_unprotected_connections_total")
        assert agent.total("licet_unprotected_connections_total") >= unprotected


def test_what_goes_to_another_host_is_told_and_not_refused(shared_lab: Lab, agent: RunningAgent) -> None:
    """Not covered: no gate of this host meets it after connect(). The agent says that it missed it."""
    before = connections(agent, "far")
    missed = agent.total("licet_events_lost_total", cause="refusals")
    server = shared_lab.serve(shared_lab.remote, "10.77.2.2", ELSEWHERE)
    waiting = Deferred(shared_lab, "10.77.2.2", ELSEWHERE)
    with policy(agent, REVOKED):
        assert waiting.write() == "ok"
        told(agent, {"type": "violation", "service": "far"})
        assert agent.total("licet_events_lost_total", cause="refusals") == missed + 1
        assert since(before, agent, "far") == {("loopback", "allowed"): 1, ("loopback", "denied"): 1}
    processes.end(server)
