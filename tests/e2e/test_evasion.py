"""Ways around a licence check, each tried by the user who could: refused in enforce, reported in observe.

docs/enforcement.md lists them all, and those that are not covered."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.fixtures import namespaces, processes
from tests.fixtures.clients import Client, by_io_uring, dial
from tests.fixtures.full_flows import full_of_flows
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections

PORT, MPTCP_PORT, LICENSED, UNLICENSED = 7341, 7342, 1001, 1002
POLICY = """\
version: 1
services:
  db:
    product: acme
    on_unresolved: deny
    ports: [{port: 7341, class: internal}, {port: 7342, class: internal}]
principals:
  licensed: [{uid: 1001}, {exe: EXE}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: MODE}
"""
FIXTURES = Path(__file__).parents[1] / "fixtures"
PASSED = """
import errno, os, socket, sys
here, there = socket.socketpair()
pid = os.fork()
if pid == 0:
    os.setgid(1002)
    os.setuid(1002)
    _, fds, _, _ = socket.recv_fds(there, 1, 1)
    given = socket.socket(fileno=fds[0])
    print(errno.errorcode.get(given.connect_ex((sys.argv[1], int(sys.argv[2]))), "0"), flush=True)
    os._exit(0)
os.setgid(1001)
os.setuid(1001)
made = socket.socket()
socket.send_fds(here, [b"x"], [made.fileno()])
os.waitpid(pid, 0)
"""

Way = Callable[[Lab], str]
"""Tries once, as the unlicensed user; the name of the error, "" if it got through."""


def dialed(kind: str, address: str, port: int = PORT) -> Way:
    return lambda lab: dial(lab, lab.host, kind, address, port, uid=UNLICENSED)["error"]


def in_a_thread_of_the_kernels(lab: Lab) -> str:
    return by_io_uring(lab, lab.host, "127.0.0.1", PORT, uid=UNLICENSED)


def with_a_licensed_users_socket(lab: Lab) -> str:
    argv = [processes.PYTHON, "-Ic", PASSED, "127.0.0.1", str(PORT)]
    said = lab.call(lab.host, argv).stdout.strip()
    return "" if said == "0" else said


def with_a_copied_executable(lab: Lab) -> str:
    copy = lab.directory / "copy-of-licensed"
    shutil.copy2(lab.executable("licensed"), copy)
    errors = lab.load(lab.host, "127.0.0.1", PORT, program=copy, uid=UNLICENSED)["errors"]
    return next(iter(errors), "")


WAYS: dict[str, Way] = {
    "plain": dialed("plain", "127.0.0.1"),
    "ipv6": dialed("plain", "::1"),
    "non-blocking": dialed("nonblocking", "127.0.0.1"),
    "fast open, sendto": dialed("fastopen", "127.0.0.1"),
    "fast open, connect": dialed("fastopen-connect", "127.0.0.1"),
    "mptcp": dialed("mptcp", "127.0.0.1", MPTCP_PORT),
    "mapped address": dialed("plain", "::ffff:127.0.0.1"),
    "unspecified address": dialed("plain", "0.0.0.0"),
    "unspecified ipv6 address": dialed("plain", "::"),
    "own routable address": dialed("plain", "10.77.1.1"),
    "io_uring": in_a_thread_of_the_kernels,
    "a licensed user's socket": with_a_licensed_users_socket,
    "a copied executable": with_a_copied_executable,
}


def policy(lab: Lab, mode: str) -> str:
    return POLICY.replace("EXE", str(lab.executable("licensed"))).replace("MODE", mode)


@pytest.fixture(scope="module")
def servers(shared_lab: Lab) -> Iterator[None]:
    with namespaces.entered(shared_lab.host):
        # data in the first SYN, with no cookie, on every listener (ip-sysctl.rst)
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("1543")
    serving = [shared_lab.serve(shared_lab.host, "::", port) for port in (PORT, MPTCP_PORT)]
    yield
    for server in serving:
        processes.end(server)


def test_reported_in_observe(shared_lab: Lab, servers: None) -> None:
    with shared_lab.agent(policy(shared_lab, "observe")) as agent:
        for number, (name, way) in enumerate(WAYS.items(), start=1):
            assert way(shared_lab) == "", name
            assert connections(agent, "db") == {("loopback", "denied"): number}, name


@pytest.fixture(scope="module")
def enforcing(shared_lab: Lab, servers: None) -> Iterator[tuple[RunningAgent, Client]]:
    """And a client whose socket is older than the gates."""
    early = Client(shared_lab, shared_lab.host, "plain", "127.0.0.1", PORT, uid=UNLICENSED)
    with shared_lab.agent(policy(shared_lab, "enforce")) as agent:
        yield agent, early


@pytest.mark.parametrize("way", WAYS)
def test_refused_and_counted_once_in_enforce(
    shared_lab: Lab, enforcing: tuple[RunningAgent, Client], way: str
) -> None:
    agent, _ = enforcing
    before = connections(agent, "db").get(("loopback", "denied"), 0)
    assert WAYS[way](shared_lab) == "EPERM"
    assert connections(agent, "db")[("loopback", "denied")] == before + 1


def test_a_socket_older_than_the_gates_is_refused(enforcing: tuple[RunningAgent, Client]) -> None:
    early = enforcing[1]
    early.connect()
    assert early.close()["error"] == "EPERM"


def test_the_licensed_are_not_hurt_by_any_of_it(
    shared_lab: Lab, enforcing: tuple[RunningAgent, Client]
) -> None:
    host = shared_lab.host
    for kind in ("plain", "nonblocking", "fastopen", "fastopen-connect", "mptcp"):
        assert dial(shared_lab, host, kind, "127.0.0.1", PORT, uid=LICENSED)["error"] == "", kind
    program = shared_lab.executable("licensed")
    assert shared_lab.load(host, "127.0.0.1", PORT, program=program, uid=UNLICENSED)["errors"] == {}


def test_a_full_flow_table_opens_no_gap(shared_lab: Lab, enforcing: tuple[RunningAgent, Client]) -> None:
    agent, _ = enforcing
    with full_of_flows(agent):
        before = connections(agent, "db")
        assert WAYS["plain"](shared_lab) == "EPERM"
        for address in ("127.0.0.1", "10.77.1.1"):
            assert dial(shared_lab, shared_lab.host, "plain", address, PORT, uid=LICENSED)["error"] == ""
        assert agent.status()["losses"]["flows_full"] >= 3
        after = connections(agent, "db")
        changed = {key: count - before.get(key, 0) for key, count in after.items()}
        assert {key: count for key, count in changed.items() if count} == {
            ("loopback", "denied"): 1,
            ("loopback", "allowed"): 2,
        }
