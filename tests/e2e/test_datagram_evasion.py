"""UDP: whatever way a datagram takes to a declared port, it is refused, and counted once."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.fixtures import datagrams, processes
from tests.fixtures.clients import by_io_uring
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since
from tests.fixtures.users_network import users_network
from tests.fixtures.waiting import wait_for

UNLICENSED = 1002
PORT, FREE, FAR = 5300, 5301, 5302
POLICY = f"""\
version: 1
services:
  dns: {{product: acme, ports: [{{port: {PORT}, protocol: udp, class: internal}}]}}
  far: {{product: acme, at: [10.77.2.2], ports: [{{port: {FAR}, protocol: udp, class: internal}}]}}
principals:
  nobody: [{{uid: 1009}}]
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [nobody]}}]}}
enforcement: {{default: enforce}}
"""

COMMON = """
import ctypes, errno, json, os, select, socket, struct, sys
libc = ctypes.CDLL(None, use_errno=True)
PORT, FREE = int(sys.argv[1]), int(sys.argv[2])
HOST4, HOST6 = sys.argv[3], sys.argv[4]
MAPPED = "::ffff:" + HOST4

def new(family=socket.AF_INET):
    made = socket.socket(family, socket.SOCK_DGRAM)
    made.settimeout(0.3)
    return made

def called(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), "libc")

def sockaddr(family, address, port):
    return struct.pack("=H", family) + struct.pack("!H", port) + socket.inet_aton(address) + bytes(8)
"""
ANSWERED = """
try:
    way()
    sender.recv(65536)
    print(json.dumps("answered"))
except TimeoutError:
    print(json.dumps("silence"))
except OSError as error:
    print(json.dumps(errno.errorcode[error.errno]))
"""
WAYS = {
    "sendto": "sender = new()\ndef way(): sender.sendto(b'x', (HOST4, PORT))",
    "IPv6": "sender = new(socket.AF_INET6)\ndef way(): sender.sendto(b'x', (HOST6, PORT))",
    "a mapped address": "sender = new(socket.AF_INET6)\ndef way(): sender.sendto(b'x', (MAPPED, PORT))",
    "a mapped address, connected": (
        "sender = new(socket.AF_INET6)\ndef way(): sender.connect((MAPPED, PORT)); sender.send(b'x')"
    ),
    "to any address": "sender = new()\ndef way(): sender.sendto(b'x', ('0.0.0.0', PORT))",
    "to any address, connected": (
        "sender = new()\ndef way(): sender.connect(('0.0.0.0', PORT)); sender.send(b'x')"
    ),
    "to any IPv6 address": "sender = new(socket.AF_INET6)\ndef way(): sender.sendto(b'x', ('::', PORT))",
    "a family of zero": (
        "sender = new()\n"
        "def way(): called(libc.sendto(sender.fileno(), b'x', 1, 0, sockaddr(0, HOST4, PORT), 16))"
    ),
    "a socket that is connected elsewhere": """
sender = new()
sender.settimeout(0.05)
def way():
    for _ in range(20):
        sender.connect((HOST4, FREE))
        sender.sendto(b"x", (HOST4, PORT))
        sender.connect((HOST4, PORT))
        if select.select([sender], [], [], 0.05)[0]:
            break
""",
    "corked, and let go by an option": """
sender = new()
sender.setsockopt(17, 1, 1)
def way():
    sender.sendto(b"x", (HOST4, PORT))
    sender.setsockopt(17, 1, 0)
""",
    "sendmmsg": """
sender = new()
class Msg(ctypes.Structure):
    _fields_ = [("name", ctypes.c_void_p), ("namelen", ctypes.c_uint), ("iov", ctypes.c_void_p),
                ("iovlen", ctypes.c_size_t), ("control", ctypes.c_void_p), ("controllen", ctypes.c_size_t),
                ("flags", ctypes.c_int), ("length", ctypes.c_uint)]
def way():
    to = ctypes.create_string_buffer(sockaddr(2, HOST4, PORT))
    data = ctypes.create_string_buffer(b"x")
    iov = (ctypes.c_size_t * 2)(ctypes.addressof(data), 1)
    message = Msg(ctypes.addressof(to), 16, ctypes.addressof(iov), 1, None, 0, 0, 0)
    called(libc.sendmmsg(sender.fileno(), ctypes.byref(message), 1, 0))
""",
    "too large for one packet": "sender = new()\ndef way(): sender.sendto(bytes(20000), (HOST4, PORT))",
    "behind an option header": (
        "sender = new(socket.AF_INET6)\nsender.setsockopt(41, 59, bytes([0, 0, 1, 4, 0, 0, 0, 0]))\n"
        "def way(): sender.sendto(b'x', (HOST6, PORT))"
    ),
    "in segments": (
        "sender = new()\nsender.setsockopt(17, 103, 100)\n"
        "def way(): sender.sendto(bytes(1000), (HOST4, PORT))"
    ),
}
NEEDS_ROOT = {"behind an option header"}
"""IPV6_DSTOPTS asks for CAP_NET_RAW."""


@pytest.fixture(scope="module")
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    datagrams.serve(shared_lab, shared_lab.host, "::", PORT)
    datagrams.serve(shared_lab, shared_lab.host, "::", FREE)
    with shared_lab.agent(POLICY) as running:
        yield running


@pytest.fixture(params=["host", "container", "remote"])
def where(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def try_(lab: Lab, where: str, way: str) -> str:
    host4, host6 = ("10.77.2.1", "fd77:2::1") if where == "remote" else ("10.77.1.1", "fd77:1::1")
    source = COMMON + WAYS[way] + ANSWERED
    argv = [processes.PYTHON, "-ISc", source, str(PORT), str(FREE), host4, host6]
    uid = None if way in NEEDS_ROOT else UNLICENSED
    return str(json.loads(lab.call(getattr(lab, where), argv, uid=uid).stdout))


@pytest.mark.parametrize("way", WAYS)
def test_it_is_refused_and_counts_once(shared_lab: Lab, agent: RunningAgent, where: str, way: str) -> None:
    if where != "host" and "to any" in way:
        pytest.skip("leads to the namespace's own loopback")
    before = connections(agent, "dns")
    said = try_(shared_lab, where, way)
    assert said in ("EPERM", "ECONNREFUSED", "silence"), said
    counted = since(before, agent, "dns")
    if where == "remote":  # one address: what was tried a moment ago is the same attempt
        assert counted.keys() <= {("remote", "denied")}
        assert sum(counted.values()) <= 1
    else:
        origin = "loopback" if where == "host" else "container"
        assert counted == {(origin, "denied"): 1}


def test_every_way_is_one_that_works(shared_lab: Lab, agent: RunningAgent, where: str) -> None:
    """In observe each is answered: what is refused above is refused by a gate."""
    agent.licet("mode", "observe", "--yes")
    try:
        for way in WAYS:
            if where == "host" or "to any" not in way:
                assert try_(shared_lab, where, way) == "answered", way
    finally:
        agent.licet("mode", "--reset", "--yes")


@pytest.mark.parametrize("way", ["sendto", "held"])
def test_a_socket_from_before_the_gates(shared_lab: Lab, agent: RunningAgent, where: str, way: str) -> None:
    """A connected one comes to no hook where it sends; what was said of it is asked again as it arrives."""
    address = "10.77.2.1" if where == "remote" else "10.77.1.1"
    agent.licet("mode", "observe", "--yes")
    options = {"count": 150, "wait_s": 0.1, "pause_s": 0.05}
    argv = [processes.PYTHON, "-ISuc", datagrams.SEND, way, address, str(PORT), json.dumps(options)]
    sender = shared_lab.run(getattr(shared_lab, where), argv, uid=UNLICENSED, stdin=subprocess.PIPE)
    if way == "held":
        assert sender.stdout is not None
        assert sender.stdout.readline() == "ready\n"
        assert sender.stdin is not None
        sender.stdin.write("\n")
        sender.stdin.flush()
    wait_for(lambda: connections(agent, "dns"), "it has sent")
    agent.licet("mode", "--reset", "--yes")
    said = json.loads(sender.communicate(timeout=30)[0])
    assert said["answered"] < 150, "refused from when the gates were there"
    assert sum(said["errors"].values()) >= 10


@pytest.mark.parametrize("place", ["host", "container"])
def test_io_uring(shared_lab: Lab, agent: RunningAgent, place: str) -> None:
    """A worker thread of the kernel's sends, and is still the process that asked for it."""
    where: Namespace = getattr(shared_lab, place)
    before = connections(agent, "dns")
    said = by_io_uring(shared_lab, where, "10.77.1.1", PORT, "udp", uid=UNLICENSED)
    assert said == "EPERM"
    origin = {"host": "loopback", "container": "container"}[place]
    assert since(before, agent, "dns") == {(origin, "denied"): 1}
    assert by_io_uring(shared_lab, where, "10.77.1.1", FREE, "udp", uid=UNLICENSED) == ""


FROM_TO = """
import socket, sys
source, source_port, address, port = sys.argv[1:]
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sender.bind((source, int(source_port)))
try:
    sender.sendto(b"x", (address, int(port)))
    print("sent")
except PermissionError:
    print("EPERM")
"""


def test_what_a_user_sends_in_a_network_of_his_own_makes_no_answer(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """He has the server's address there, and sends from its port to the one that he will send from here."""

    def send(place: Namespace, *ends: str) -> str:
        argv = [processes.PYTHON, "-ISc", FROM_TO, *ends]
        return shared_lab.call(place, argv, uid=UNLICENSED).stdout.strip()

    with users_network(shared_lab, UNLICENSED, v4="10.77.2.2") as forged:
        for port in (FREE, FAR):
            send(forged, "10.77.2.2", str(FAR), "10.77.2.2", str(port))
        assert send(shared_lab.host, "0.0.0.0", "5303", "10.77.2.2", str(FAR)) == "EPERM"
        send(forged, "10.77.2.2", str(FAR), "10.77.2.2", "5304")
        assert send(shared_lab.host, "0.0.0.0", "5304", "10.77.2.2", str(FAR)) == "EPERM"
