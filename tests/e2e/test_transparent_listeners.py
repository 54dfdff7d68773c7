"""Listeners that take connections to addresses of others (IP_TRANSPARENT) are known as such."""

from __future__ import annotations

import os
import signal
import subprocess

from agent import abi
from agent.kernel.pins import Pins
from agent.model import to_address
from tests.e2e.test_strangers import CONNECT
from tests.fixtures import namespaces, processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent

PORT = 7421
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7421, class: internal}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
LISTENER = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
with socket.socket(family) as listening:
    if sys.argv[2] == "transparent":
        if family == socket.AF_INET6:
            listening.setsockopt(socket.IPPROTO_IPV6, 75, 1)
        listening.setsockopt(socket.IPPROTO_IP, 19, 1)
    listening.bind((sys.argv[1], 7421))
    listening.listen()
    print("ready", flush=True)
    if sys.stdin.readline() == "transparent\\n":
        listening.setsockopt(socket.IPPROTO_IP, 19, 1)
        print("transparent", flush=True)
        sys.stdin.readline()
"""
EXPECTED = {"transparent": abi.Listener.TRANSPARENT, "plain": 0}
ADDRESSES = ["127.0.0.1", "0.0.0.0", "::1", "::"]


def flags(agent: RunningAgent, address: str) -> int | None:
    """Of the listener at this address, as the kernel finds it at a connection."""
    owners = Pins(agent.files.pins).open_map("owners")
    for key, value in owners.items():
        if abi.OwnerKey.from_buffer_copy(key).address.value() == to_address(address):
            return int(abi.ListenerOwner.from_buffer_copy(value).flags)
    return None


def listening(lab: Lab, address: str, kind: str) -> subprocess.Popen[str]:
    argv = [processes.PYTHON, "-Ic", LISTENER, address, kind]
    listener = lab.run(lab.host, argv, stdin=subprocess.PIPE)
    assert listener.stdout is not None
    assert listener.stdout.readline() == "ready\n"
    return listener


def test_the_kernel_tells_them_apart(lab: Lab) -> None:
    with lab.agent(POLICY) as agent:
        os.kill(agent.pid, signal.SIGSTOP)  # what is noted now is noted by the kernel
        for kind, expected in EXPECTED.items():
            for address in ADDRESSES:
                listener = listening(lab, address, kind)
                assert flags(agent, address) & abi.Listener.TRANSPARENT == expected, (kind, address)
                processes.end(listener)
        os.kill(agent.pid, signal.SIGCONT)


def test_those_from_before_are_told_apart(lab: Lab) -> None:
    there = {"::1": "plain", "127.0.0.1": "transparent"}
    listeners = [listening(lab, address, kind) for address, kind in there.items()]
    with lab.agent(POLICY) as agent:
        for address, kind in there.items():
            assert flags(agent, address) & abi.Listener.TRANSPARENT == EXPECTED[kind], address
    for listener in listeners:
        processes.end(listener)


NOBODY = (
    POLICY.replace("principals: [anyone]", "principals: [nobody]")
    + """\
principals: {nobody: [{uid: 1999}]}
enforcement: {default: enforce}
"""
)


def test_one_that_becomes_transparent_after_listen_is_one_at_once(lab: Lab) -> None:
    """What it takes is not this host's, and the daemon need not look for that."""
    inside = ("-n", lab.host.name)
    namespaces.ip(*inside, "rule", "add", "to", "172.31.0.0/16", "lookup", "100")
    namespaces.ip(*inside, "route", "add", "local", "172.31.0.0/16", "dev", "lo", "table", "100")
    with lab.agent(NOBODY) as agent:
        listener = listening(lab, "0.0.0.0", "plain")
        assert listener.stdout is not None
        assert listener.stdin is not None
        os.kill(agent.pid, signal.SIGSTOP)
        listener.stdin.write("transparent\n")
        listener.stdin.flush()
        assert listener.stdout.readline() == "transparent\n"
        client = [processes.PYTHON, "-Ic", CONNECT, "172.31.0.9", str(PORT)]
        assert lab.call(lab.remote, client).stdout == "ok\n"
        os.kill(agent.pid, signal.SIGCONT)
        processes.end(listener)
