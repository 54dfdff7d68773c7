"""MPTCP's further subflows: made by a kernel worker, from another address, for a judged connection."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.fixtures import namespaces, processes
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.saying import all_closed, connections
from tests.fixtures.users_network import joined_to_host, users_network
from tests.fixtures.waiting import wait_for

PORT, ANNOUNCED, LICENSED, UNLICENSED = 7391, 7393, 1001, 1002
SECOND = "10.77.1.77"
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7391, class: internal}, {port: 7393, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: MODE}
"""
SERVER = """
import socket
listening = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP)
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("0.0.0.0", 7391))
listening.listen()
print("ready", flush=True)
while True:
    with listening.accept()[0] as client:
        while got := client.recv(1):
            client.sendall(got)
"""
CLIENT = """
import socket, sys
with socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_MPTCP) as client:
    client.connect(("10.77.1.1", 7391))
    client.sendall(b"x")
    client.recv(1)
    print("open", flush=True)
    sys.stdin.readline()
"""
MPTCP = Path("/proc/sys/net/mptcp/enabled")

pytestmark = pytest.mark.skipif(not MPTCP.exists(), reason="this kernel has no MPTCP")


@pytest.fixture(scope="module")
def two_addresses(shared_lab: Lab) -> Iterator[None]:
    """The container has a second one, for further subflows; a server listens in the host."""
    inside = ("-n", shared_lab.container.name)
    namespaces.ip(*inside, "address", "add", f"{SECOND}/24", "dev", "eth0")
    for place in (shared_lab.container, shared_lab.host):
        namespaces.ip("-n", place.name, "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
    namespaces.ip(*inside, "mptcp", "endpoint", "add", SECOND, "dev", "eth0", "subflow")
    server = shared_lab.run(shared_lab.host, [processes.PYTHON, "-Ic", SERVER])
    assert server.stdout is not None
    assert server.stdout.readline() == "ready\n"
    yield
    processes.end(server)
    namespaces.ip(*inside, "mptcp", "endpoint", "flush")
    namespaces.ip(*inside, "address", "del", f"{SECOND}/24", "dev", "eth0")


def subflows(lab: Lab) -> set[str]:
    """The addresses from which the container's connection is established."""
    with namespaces.entered(lab.container):
        lines = subprocess.run(
            ["ss", "-Htn", "state", "established", f"dport = :{PORT}"],
            capture_output=True,
            text=True,
            check=True,
        ).stdout.splitlines()
    return {line.split()[2].split("%")[0].rsplit(":", 1)[0] for line in lines}


@pytest.mark.usefixtures("two_addresses")
@pytest.mark.parametrize("interfaces", [[], ["to-*"]], ids=["socket gate alone", "with the packet gate"])
def test_they_go_where_the_first_may_go_and_are_no_attempts(shared_lab: Lab, interfaces: list[str]) -> None:
    lab = shared_lab
    with lab.agent(POLICY.replace("MODE", "enforce"), {"scope": {"interfaces": interfaces}}) as agent:
        agent.wait_until_it_stands_by()
        client = lab.run(
            lab.container, [processes.PYTHON, "-Ic", CLIENT], uid=LICENSED, stdin=subprocess.PIPE
        )
        wait_for(lambda: subflows(lab) == {lab.container.v4, SECOND}, "both subflows are established")
        refused = lab.call(lab.container, [processes.PYTHON, "-Ic", CLIENT], uid=UNLICENSED, check=False)
        assert "PermissionError" in refused.stderr
        client.communicate("\n")
        assert connections(agent, "db") == {("container", "allowed"): 1, ("container", "denied"): 1}
        assert all_closed(agent, "db") == 1


ELSEWHERE = SERVER.replace("7391", "7392")


@pytest.fixture(params=["of root's runtime", "of a user's own"])
def network(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[Namespace]:
    """From where further subflows go to the service's port, which the host announces: to an address that no
    server listens at otherwise."""
    lab = shared_lab
    inside = ("-n", lab.host.name, "mptcp")
    with ExitStack() as stack:
        if request.param == "of root's runtime":
            place, announced = lab.container, lab.host.v4
        else:
            place, announced = stack.enter_context(users_network(lab, LICENSED)), "10.77.4.1"
            stack.enter_context(joined_to_host(lab, place))
        for each in (place, lab.host):
            namespaces.ip("-n", each.name, "mptcp", "limits", "set", "subflow", "2", "add_addr_accepted", "2")
        namespaces.ip(*inside, "endpoint", "add", announced, "port", str(ANNOUNCED), "signal")
        stack.callback(namespaces.ip, *inside, "endpoint", "flush")
        server = lab.run(lab.host, [processes.PYTHON, "-Ic", ELSEWHERE])
        stack.callback(processes.end, server)
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        yield place


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_a_further_subflow_of_what_is_no_attempt_is_none_either(
    shared_lab: Lab, network: Namespace, mode: str
) -> None:
    """Its first one went to a port of no service; nobody has asked the kernel for that one's cookie."""
    lab, address = shared_lab, "10.77.1.1" if network == shared_lab.container else "10.77.4.1"
    client = CLIENT.replace('"10.77.1.1", 7391', f'"{address}", 7392')
    with lab.agent(POLICY.replace("MODE", mode)) as agent:
        agent.wait_until_it_stands_by()
        running = lab.run(network, [processes.PYTHON, "-Ic", client], uid=UNLICENSED, stdin=subprocess.PIPE)
        assert running.stdout is not None
        assert running.stdout.readline() == "open\n"
        if mode == "observe":
            wait_for(lambda: joined(network), "a further subflow to the service's port")
        time.sleep(0.5)  # nothing is to come: where it is refused, no socket shows that it was tried
        running.communicate("\n")
        of_process = {key: count for key, count in connections(agent, "db").items() if key[0] != "remote"}
        assert of_process == {}
        if mode == "observe":
            assert connections(agent, "db") == {}


def joined(place: Namespace) -> bool:
    """Is there an established subflow to the service's port?"""
    with namespaces.entered(place):
        found = subprocess.run(
            ["ss", "-Htn", "state", "established", f"dport = :{ANNOUNCED}"],
            capture_output=True,
            text=True,
            check=True,
        )
    return bool(found.stdout.strip())


@pytest.mark.usefixtures("two_addresses")
def test_in_observe_the_connection_is_reported_and_not_its_subflows(shared_lab: Lab) -> None:
    lab = shared_lab
    with lab.agent(POLICY.replace("MODE", "observe")) as agent:
        agent.wait_until_it_stands_by()
        client = lab.run(
            lab.container, [processes.PYTHON, "-Ic", CLIENT], uid=UNLICENSED, stdin=subprocess.PIPE
        )
        wait_for(lambda: subflows(lab) == {lab.container.v4, SECOND}, "both subflows are established")
        client.communicate("\n")
        assert connections(agent, "db") == {("container", "denied"): 1}
        assert all_closed(agent, "db") == 1
