"""Each flow names the process that listens on the very socket it was accepted from."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.fixtures import processes
from tests.fixtures.clients import Client
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent

POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7201, class: internal}, {port: 7202, class: internal}]}
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [anyone]}]}
"""
SHARING_SERVER = """
import os, socket
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
server.bind(("127.0.0.1", 7202))
server.listen()
print("listening", flush=True)
held = []
while True:
    accepted, _ = server.accept()
    accepted.sendall(b"%d\\n" % os.getpid())
    held.append(accepted)
"""
ASKING_CLIENT = """
import json, socket, sys
held = [socket.create_connection(("127.0.0.1", 7202)) for _ in range(32)]
print(json.dumps({each.getsockname()[1]: int(each.makefile().readline()) for each in held}), flush=True)
sys.stdin.read()
"""


@pytest.fixture
def agent(shared_lab: Lab) -> Iterator[RunningAgent]:
    with shared_lab.agent(POLICY) as running:
        yield running


def owners(agent: RunningAgent) -> dict[int, int]:
    """Of every open flow, the owner's pid by the consumer's port."""
    return {flow["tuple"]["sport"]: flow["owner"]["pid"] for flow in agent.flows()}


def test_a_server_that_listens_wider_than_the_one_before_it_is_named(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """The old one's address is still noted: with the daemon dead, nobody has taken it back."""
    processes.end(shared_lab.serve(shared_lab.host, "127.0.0.1", 7201))
    agent.kill9()
    for address in ("0.0.0.0", "::", "127.0.0.1"):
        server = shared_lab.serve(shared_lab.host, address, 7201)
        client = Client(shared_lab, shared_lab.host, "plain", "127.0.0.1", 7201)
        client.connect()
        agent.start()
        assert set(owners(agent).values()) == {server.pid}, address
        agent.kill9()
        client.close()
        processes.end(server)


@pytest.mark.parametrize("first", ["server", "agent"])
def test_servers_that_share_a_port_are_told_apart(shared_lab: Lab, agent: RunningAgent, first: str) -> None:
    if first == "server":
        agent.stop()
    server_argv = [sys.executable, "-c", SHARING_SERVER]
    servers = [shared_lab.run(shared_lab.host, server_argv, stdout=subprocess.PIPE) for _ in range(2)]
    for server in servers:
        assert server.stdout
        assert server.stdout.readline() == "listening\n"
    if first == "server":
        agent.start()
    client = shared_lab.run(
        shared_lab.host, [sys.executable, "-c", ASKING_CLIENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert client.stdout
    accepted_by = {int(port): pid for port, pid in json.loads(client.stdout.readline()).items()}
    named = owners(agent)
    for process in (client, *servers):
        processes.end(process)
    assert set(accepted_by.values()) == {server.pid for server in servers}
    assert named == accepted_by
