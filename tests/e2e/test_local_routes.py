"""What is delivered to this host is this host, whether the agent knows its address or not: local routes, new
addresses; and not what only looks so: ClusterIPs, what a transparent proxy takes."""

from __future__ import annotations

import itertools
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.fixtures import namespaces, processes
from tests.fixtures.clients import connect_from, dial
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since
from tests.fixtures.waiting import wait_for

PORT, LICENSED, UNLICENSED = 7441, 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7441, class: internal}]}
  far: {product: acme, at: [203.0.113.0/24], ports: [{port: 7441, class: internal}]}
principals:
  licensed: [{uid: 1001}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
enforcement: {default: MODE}
"""
ENFORCED, OBSERVED = POLICY.replace("MODE", "enforce"), POLICY.replace("MODE", "observe")
KNOWN = {4: ("192.0.2.0/25", "192.0.2.5"), 6: ("2001:db8:77::/64", "2001:db8:77::5")}
_NUMBERS = itertools.count()
INTERFACES = {"socket gate alone": [], "with the packet gate": ["*"]}
TRANSPARENT = """
import socket
with socket.create_server(("0.0.0.0", 7449)) as listening:
    pass
listening = socket.socket()
listening.setsockopt(socket.IPPROTO_IP, 19, 1)  # IP_TRANSPARENT
listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
listening.bind(("10.77.2.1", 7442))
listening.listen()
print("ready", flush=True)
while True:
    with listening.accept()[0] as client:
        client.sendall(client.recv(1))
"""


def route(lab: Lab, verb: str, network: str) -> None:
    family = "-6" if ":" in network else "-4"
    namespaces.ip("-n", lab.host.name, family, "route", verb, "local", network, "dev", "lo")


@pytest.fixture(scope="module", params=INTERFACES.values(), ids=INTERFACES)
def agent(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[RunningAgent]:
    """On a host with local routes that were there before."""
    lab = shared_lab
    for network, _ in KNOWN.values():
        route(lab, "add", network)
    server = lab.serve(lab.host, "::", PORT)
    with lab.agent(ENFORCED, {"scope": {"interfaces": request.param}}) as running:
        running.wait_until_it_stands_by()
        yield running
    processes.end(server)
    for network, _ in KNOWN.values():
        route(lab, "del", network)


@contextmanager
def stopped(agent: RunningAgent) -> Iterator[None]:
    """The daemon hears of nothing."""
    os.kill(agent.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(agent.pid, signal.SIGCONT)


def new_networks() -> dict[int, tuple[str, str]]:
    """That nobody has seen before: network and an address in it, by family."""
    number = next(_NUMBERS)
    return {
        4: (f"198.18.{number}.0/24", f"198.18.{number}.5"),
        6: (f"2001:db8:1{number:02}::/64", f"2001:db8:1{number:02}::5"),
    }


def unprotected(agent: RunningAgent) -> dict[str, float]:
    return {
        direction: agent.total("licet_unprotected_connections_total", direction=direction)
        for direction in ("outbound", "inbound")
    }


def is_known(lab: Lab, agent: RunningAgent, address: str) -> bool:
    return bool(dial(lab, lab.host, "plain", address, PORT, uid=UNLICENSED)["error"] == "EPERM")


@pytest.mark.parametrize("family", [4, 6])
def test_a_local_route_is_this_host(shared_lab: Lab, agent: RunningAgent, family: int) -> None:
    lab, address = shared_lab, KNOWN[family][1]
    before, others = connections(agent, "db"), unprotected(agent)
    for place in (lab.host, lab.container):
        assert dial(lab, place, "plain", address, PORT, uid=UNLICENSED)["error"] == "EPERM"
        assert dial(lab, place, "plain", address, PORT, uid=LICENSED)["error"] == ""
    assert connect_from(lab.remote, 0, address, PORT) == "ECONNREFUSED"
    expected = {(origin, how): 1 for origin in ("loopback", "container") for how in ("allowed", "denied")}
    assert since(before, agent, "db") == {**expected, ("remote", "denied"): 1}
    assert unprotected(agent) == others


@pytest.fixture(params=["local route", "address", "link-local address"])
def fresh(shared_lab: Lab, agent: RunningAgent, request: pytest.FixtureRequest) -> Iterator[dict[int, str]]:
    """The daemon has not heard of these yet, and does not while the test runs; by family."""
    lab, inside = shared_lab, ("-n", shared_lab.host.name)
    found: dict[int, str] = {}
    added: list[tuple[str, ...]] = []
    with stopped(agent):
        for family, (network, address) in new_networks().items():
            if request.param == "local route":
                route(lab, "add", network)
                added.append(("route", "del", "local", network, "dev", "lo"))
            elif request.param == "address":
                length = "32" if family == 4 else "128"
                namespaces.ip(*inside, "address", "add", f"{address}/{length}", "dev", "lo")
                added.append(("address", "del", f"{address}/{length}", "dev", "lo"))
            else:
                continue
            found[family] = address
        if request.param == "link-local address":
            namespaces.ip(*inside, "address", "add", "169.254.77.1/32", "dev", "lo")
            added.append(("address", "del", "169.254.77.1/32", "dev", "lo"))
            found[4] = "169.254.77.1"
        yield found
    for command in added:
        family_flag = "-6" if ":" in " ".join(command) else "-4"
        namespaces.ip(*inside, family_flag, *command)


def attempts_at(lab: Lab, address: str) -> dict[str, str]:
    """Errors by who it was."""
    host = {
        who: dial(lab, lab.host, "plain", address, PORT, uid=uid)["error"]
        for who, uid in (("licensed", LICENSED), ("unlicensed", UNLICENSED))
    }
    link_local = address.startswith("169.254")
    return host if link_local else host | {"remote": connect_from(lab.remote, 0, address, PORT)}


def test_what_nobody_has_told_of_yet_is_this_host(
    shared_lab: Lab, agent: RunningAgent, fresh: dict[int, str]
) -> None:
    """By process where it is connected to, never by address; at connect() there is no route yet, so the
    refusal is a reset."""
    lab = shared_lab
    said = {address: attempts_at(lab, address) for address in fresh.values()}
    os.kill(agent.pid, signal.SIGCONT)
    for address, errors in said.items():
        assert errors.pop("remote", "ECONNREFUSED") == "ECONNREFUSED", address
        assert errors == {"licensed": "", "unlicensed": "ECONNREFUSED"}, address
        wait_for(lambda address=address: is_known(lab, agent, address), "it is known")
        assert dial(lab, lab.host, "plain", address, PORT, uid=LICENSED)["error"] == ""


def test_it_is_counted_as_what_it_is(shared_lab: Lab, agent: RunningAgent) -> None:
    lab = shared_lab
    before, others, networks = connections(agent, "db"), unprotected(agent), new_networks()
    with stopped(agent):
        for network, address in networks.values():
            route(lab, "add", network)
            attempts_at(lab, address)
    expected = {("loopback", "allowed"): 2, ("loopback", "denied"): 2, ("remote", "denied"): 2}
    assert since(before, agent, "db") == expected
    assert unprotected(agent) == others
    for network, _ in networks.values():
        route(lab, "del", network)


def test_it_is_observed_too_and_after_a_reload(shared_lab: Lab, agent: RunningAgent) -> None:
    lab = shared_lab
    agent.set_policy(OBSERVED)
    others = unprotected(agent)
    before, networks = connections(agent, "db"), new_networks()
    with stopped(agent):
        for network, address in networks.values():
            route(lab, "add", network)
            assert attempts_at(lab, address) == {"licensed": "", "unlicensed": "", "remote": ""}
    expected = {("loopback", "allowed"): 2, ("loopback", "denied"): 2, ("remote", "denied"): 2}
    assert since(before, agent, "db") == expected
    assert unprotected(agent) == others
    agent.set_policy(ENFORCED)
    for network, address in networks.values():
        assert is_known(lab, agent, address)
        route(lab, "del", network)


def test_a_container_is_judged_by_address_until_it_is_known(shared_lab: Lab, agent: RunningAgent) -> None:
    """It has no local route there, and what arrives has no attempt to belong to; docs/enforcement.md."""
    lab, (network, address) = shared_lab, new_networks()[4]
    before = connections(agent, "db")
    with stopped(agent):
        route(lab, "add", network)
        assert dial(lab, lab.container, "plain", address, PORT, uid=LICENSED)["error"] == "ECONNREFUSED"
    assert since(before, agent, "db") == {("remote", "denied"): 1}
    wait_for(lambda: is_known(lab, agent, address), "it is known")
    assert dial(lab, lab.container, "plain", address, PORT, uid=LICENSED)["error"] == ""
    route(lab, "del", network)


def test_services_elsewhere_go_first(shared_lab: Lab, agent: RunningAgent) -> None:
    """Also where their address is delivered here."""
    lab = shared_lab
    route(lab, "add", "203.0.113.0/24")
    before, far = connections(agent, "db"), connections(agent, "far")
    assert dial(lab, lab.host, "plain", "203.0.113.5", PORT, uid=UNLICENSED)["error"] == "EPERM"
    assert connect_from(lab.remote, 0, "203.0.113.5", PORT) == "ECONNREFUSED"
    assert since(far, agent, "far") == {("loopback", "denied"): 1, ("remote", "denied"): 1}
    assert since(before, agent, "db") == {}
    route(lab, "del", "203.0.113.0/24")


@pytest.fixture
def cluster_address(shared_lab: Lab) -> Iterator[str]:
    """A ClusterIP, as kube-proxy in IPVS mode has it; what connects to it is led to another namespace."""
    lab, inside = shared_lab, ("-n", shared_lab.host.name)
    server = lab.serve(lab.container, "0.0.0.0", PORT + 8)
    namespaces.ip(*inside, "link", "add", "kube-ipvs0", "type", "bridge")
    namespaces.ip(*inside, "address", "add", "10.96.0.10/32", "dev", "kube-ipvs0")
    rule = f"ip daddr 10.96.0.10 tcp dport {PORT} dnat to {lab.container.v4}:{PORT + 8};"
    chain = f"type nat hook output priority -100; {rule}"
    lab.call(lab.host, ["nft", f"table ip licet_ipvs {{ chain output {{ {chain} }}; }}"])
    yield "10.96.0.10"
    lab.call(lab.host, ["nft", "delete table ip licet_ipvs"])
    namespaces.ip(*inside, "link", "del", "kube-ipvs0")
    processes.end(server)


def test_a_cluster_address_is_not_this_host_though_its_route_is_local(
    shared_lab: Lab, agent: RunningAgent, cluster_address: str
) -> None:
    lab = shared_lab
    agent.control("POST", "/v1/reload")  # it is known from here on
    before, others = connections(agent, "db"), unprotected(agent)
    assert dial(lab, lab.host, "plain", cluster_address, PORT, uid=UNLICENSED)["error"] == ""
    assert since(before, agent, "db") == {}
    assert unprotected(agent)["outbound"] == others["outbound"] + 1


@pytest.fixture
def transparent_proxy(shared_lab: Lab, agent: RunningAgent) -> Iterator[str]:
    """Takes what the remote sends to 172.31.0.0/16, port 7441."""
    lab, inside = shared_lab, ("-n", shared_lab.host.name)
    proxy = lab.run(lab.host, [processes.PYTHON, "-Ic", TRANSPARENT])
    assert proxy.stdout is not None
    assert proxy.stdout.readline() == "ready\n"
    rule = f"ip daddr 172.31.0.0/16 tcp dport {PORT} tproxy to 10.77.2.1:7442 meta mark set 1 accept;"
    chain = f"type filter hook prerouting priority mangle; {rule}"
    lab.call(lab.host, ["nft", f"table ip licet_tproxy {{ chain prerouting {{ {chain} }}; }}"])
    namespaces.ip(*inside, "rule", "add", "fwmark", "1", "lookup", "100")
    namespaces.ip(*inside, "route", "add", "local", "0.0.0.0/0", "dev", "lo", "table", "100")
    yield "172.31.0.9"
    namespaces.ip(*inside, "route", "flush", "table", "100")
    namespaces.ip(*inside, "rule", "del", "fwmark", "1", "lookup", "100")
    lab.call(lab.host, ["nft", "delete table ip licet_tproxy"])
    processes.end(proxy)


def test_what_a_transparent_proxy_takes_is_not_this_host(
    shared_lab: Lab, agent: RunningAgent, transparent_proxy: str
) -> None:
    before, others = connections(agent, "db"), unprotected(agent)
    assert connect_from(shared_lab.remote, 0, transparent_proxy, PORT) == ""
    assert since(before, agent, "db") == {}
    assert unprotected(agent)["inbound"] == others["inbound"] + 1


def test_a_local_route_of_another_table_counts_for_what_a_rule_leads_there(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    """It is in no list: refused where it arrives. Of IPv4, only a transparent socket can answer there."""
    lab, address = shared_lab, "2001:db8:99::5"
    inside, network = ("-n", lab.host.name, "-6"), "2001:db8:99::/64"
    namespaces.ip(*inside, "route", "add", "local", network, "dev", "lo", "table", "100")
    namespaces.ip(*inside, "rule", "add", "to", network, "lookup", "100")
    try:
        before = connections(agent, "db")
        for _ in range(2):
            assert dial(lab, lab.host, "plain", address, PORT, uid=UNLICENSED)["error"] == "ECONNREFUSED"
            assert dial(lab, lab.host, "plain", address, PORT, uid=LICENSED)["error"] == ""
            assert connect_from(lab.remote, 0, address, PORT) == "ECONNREFUSED"
            agent.control("POST", "/v1/reload")
        expected = {("loopback", "denied"): 2, ("loopback", "allowed"): 2, ("remote", "denied"): 2}
        assert since(before, agent, "db") == expected
    finally:
        namespaces.ip(*inside, "rule", "del", "to", network, "lookup", "100")
        namespaces.ip(*inside, "route", "del", "local", network, "dev", "lo", "table", "100")


def test_routes_elsewhere_wake_nobody(shared_lab: Lab, agent: RunningAgent) -> None:
    """A router's table changes a thousand times a second."""
    with namespaces.entered(shared_lab.host):
        script = "".join(f"route add 172.29.{n % 256}.{n // 256}/32 dev lo\n" for n in range(1000))
        batch = ["ip", "-batch", "-"]
        before = agent.status()["policy"]["generation"]
        subprocess.run(batch, input=script, text=True, check=True)
        subprocess.run(batch, input=script.replace("add", "del"), text=True, check=True)
    assert agent.status()["policy"]["generation"] == before
