"""A tuple, a cookie and a verdict speak only for what they were made for: NAT in a container's own network,
a network of a user's own with somebody else's address in it, and what a gate said a while ago."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import abi
from agent.kernel.pins import Pins
from agent.model import to_address
from tests.fixtures import namespaces, processes
from tests.fixtures.clients import connect_from, dial
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace
from tests.fixtures.nfqueue import delayed_syns
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections, since
from tests.fixtures.users_network import joined_to_host, users_network
from tests.fixtures.waiting import wait_for
from tests.kernel.tc_world import namespace

PORT, OTHER, CLOSING, LICENSED, UNLICENSED = 7431, 7432, 7433, 1001, 1002
POLICY = """\
version: 1
services:
  db: {product: acme, ports: [{port: 7431, class: internal}, {port: 7433, class: internal}]}
  other: {product: zeta, ports: [{port: 7432, class: internal}]}
principals:
  licensed: [{uid: 1001}]
  nobody: [{uid: 60000}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: use, classes: [internal], principals: [licensed]}]}
  - {id: zeta, product: zeta, entitlements: [{id: use, classes: [internal], principals: [nobody]}]}
enforcement: {default: MODE}
"""
ENFORCED, OBSERVED = POLICY.replace("MODE", "enforce"), POLICY.replace("MODE", "observe")
REMOTE_DENIED = ("remote", "denied")
INTERFACES = {"socket gate alone": [], "with the packet gate": ["*"]}
V4, V6 = ("10.77.2.2", "10.77.2.1"), ("fd77:2::2", "fd77:2::1")
"""The remote's address, and the host's there."""

FROM_PORT = """
import socket, sys
source, source_port, address, port, rest = sys.argv[1:]
with socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET) as client:
    client.bind((source, int(source_port)))
    client.setblocking(rest == "wait")
    client.connect_ex((address, int(port)))
    print("sent", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture(scope="module", params=INTERFACES.values(), ids=INTERFACES)
def interfaces(request: pytest.FixtureRequest) -> list[str]:
    """scope.interfaces."""
    chosen: list[str] = request.param
    return chosen


@pytest.fixture(scope="module")
def agent(shared_lab: Lab, interfaces: list[str]) -> Iterator[RunningAgent]:
    lab = shared_lab
    servers = [lab.serve(lab.host, "::", port) for port in (PORT, OTHER)]
    with lab.agent(ENFORCED, {"scope": {"interfaces": interfaces}}) as running:
        running.wait_until_it_stands_by()
        yield running
    for server in servers:
        processes.end(server)


@pytest.fixture
def observing(agent: RunningAgent) -> Iterator[RunningAgent]:
    agent.set_policy(OBSERVED)
    yield agent
    agent.set_policy(ENFORCED)


def connect(place: Namespace, source_port: int, address: str) -> str:
    return connect_from(place, source_port, address, PORT)


def sent_from(
    lab: Lab, place: Namespace, source: str, port: int, address: str, *, wait: bool = False
) -> subprocess.Popen[str]:
    """A licensed user's client that has sent its SYN from this address and port; it holds on."""
    argv = [processes.PYTHON, "-Ic", FROM_PORT, source, str(port), address, str(PORT)]
    client = lab.run(place, [*argv, "wait" if wait else "go on"], uid=LICENSED, stdin=subprocess.PIPE)
    assert client.stdout is not None
    assert client.stdout.readline() == "sent\n"
    return client


@pytest.mark.parametrize("family", [4, 6])
def test_nat_in_a_containers_own_network_leads_to_no_other_port(
    shared_lab: Lab, agent: RunningAgent, family: int
) -> None:
    """From a port it is licensed for."""
    lab, container = shared_lab, shared_lab.container
    address, kind = (lab.host.v4, "ip") if family == 4 else (lab.host.v6, "ip6")
    to = f"{address}:{OTHER}" if family == 4 else f"[{address}]:{OTHER}"
    chain = f"type nat hook output priority -100; tcp dport {PORT} dnat to {to};"
    before, other = connections(agent, "db"), connections(agent, "other")
    lab.call(container, ["nft", f"table {kind} licet_test {{ chain output {{ {chain} }}; }}"])
    try:
        said = dial(lab, container, "plain", address, PORT, uid=LICENSED)["error"]
    finally:
        lab.call(container, ["nft", f"delete table {kind} licet_test"])
    assert said == "ECONNREFUSED"
    assert since(before, agent, "db") == {("container", "allowed"): 1}
    assert since(other, agent, "other") == {REMOTE_DENIED: 1}
    assert dial(lab, container, "plain", address, PORT, uid=LICENSED)["error"] == ""


@pytest.mark.parametrize("address", ["10.77.1.1", "fd77:1::1", "10.77.2.1"])
def test_a_container_of_roots_runtime_reaches_the_host_and_counts_once(
    shared_lab: Lab, agent: RunningAgent, address: str
) -> None:
    lab, before = shared_lab, connections(agent, "db")
    for _ in range(5):
        assert dial(lab, lab.container, "plain", address, PORT, uid=LICENSED)["error"] == ""
        assert dial(lab, lab.container, "plain", address, PORT, uid=UNLICENSED)["error"] == "EPERM"
    assert since(before, agent, "db") == {("container", "allowed"): 5, ("container", "denied"): 5}


@pytest.mark.parametrize(("theirs", "ours"), [V4, V6])
def test_a_users_own_network_lets_no_remote_in(
    shared_lab: Lab, agent: RunningAgent, theirs: str, ours: str
) -> None:
    """A licensed user has sent a SYN there, with the remote's address and port."""
    lab, before = shared_lab, connections(agent, "db")
    with users_network(lab, LICENSED, *((theirs, "") if ":" not in theirs else ("", theirs))) as place:
        namespaces.ip("-n", place.name, "route", "add", ours, "dev", "lo")  # it goes nowhere
        client = sent_from(lab, place, theirs, 40001, ours)
        assert since(before, agent, "db") == {("container", "allowed"): 1}
        for number in (1, 2):
            assert connect(lab.remote, 40001, ours) == "ECONNREFUSED"
            assert since(before, agent, "db") == {("container", "allowed"): 1, REMOTE_DENIED: number}
        processes.end(client)
        assert connect(lab.remote, 40001, ours) == "ECONNREFUSED"
        assert since(before, agent, "db") == {("container", "allowed"): 1, REMOTE_DENIED: 3}


@pytest.mark.parametrize(("theirs", "ours"), [V4, V6])
def test_a_connection_that_was_there_takes_no_remotes_refusal_out_of_the_count(
    shared_lab: Lab, agent: RunningAgent, theirs: str, ours: str
) -> None:
    """It was established, with a server of the user's own, and is closed."""
    established_in_a_users_network(shared_lab, theirs, ours, 40011)
    before = connections(agent, "db")
    assert connect(shared_lab.remote, 40011, ours) == "ECONNREFUSED"
    assert since(before, agent, "db") == {REMOTE_DENIED: 1}


@pytest.mark.parametrize(("theirs", "ours"), [V4, V6])
def test_nor_in_observe_a_remotes_attempt(
    shared_lab: Lab, observing: RunningAgent, theirs: str, ours: str
) -> None:
    established_in_a_users_network(shared_lab, theirs, ours, 40012)
    before = connections(observing, "db")
    assert connect(shared_lab.remote, 40012, ours) == ""
    assert since(before, observing, "db") == {REMOTE_DENIED: 1}
    with users_network(shared_lab, LICENSED, *((theirs, "") if ":" not in theirs else ("", theirs))) as place:
        namespaces.ip("-n", place.name, "route", "add", ours, "dev", "lo")
        client = sent_from(shared_lab, place, theirs, 40013, ours)
        assert connect(shared_lab.remote, 40013, ours) == ""
        assert since(before, observing, "db") == {REMOTE_DENIED: 2, ("container", "allowed"): 1}
        processes.end(client)


def established_in_a_users_network(lab: Lab, theirs: str, ours: str, source_port: int) -> None:
    """And closed: from a consumer in the agent's scope to a server outside it."""
    addresses = ((theirs, ours), ("", "")) if ":" not in theirs else (("", ""), (theirs, ours))
    with users_network(lab, LICENSED, addresses[0][0], addresses[1][0]) as place:
        namespaces.ip("-n", place.name, "address", "add", ours, "dev", "lo")
        server = lab.serve(place, ours, PORT, cgroup=None, uid=LICENSED)
        client = sent_from(lab, place, theirs, source_port, ours, wait=True)
        processes.end(client)
        processes.end(server)


def test_a_container_in_a_users_own_network_needs_a_filter_on_its_veth(
    shared_lab: Lab, agent: RunningAgent, interfaces: list[str]
) -> None:
    """Unprivileged LXC, userns-remap, hostUsers: false; root has joined it to the host."""
    lab = shared_lab
    with users_network(lab, LICENSED) as place, joined_to_host(lab, place):
        wait_until_known(lab, place, filtered=bool(interfaces))
        for address in ("10.77.4.1", "fd77:4::1"):
            before = connections(agent, "db")
            assert dial(lab, place, "plain", address, PORT, uid=UNLICENSED)["error"] == "EPERM"
            said = dial(lab, place, "plain", address, PORT, uid=LICENSED)["error"]
            local = {("container", "allowed"): 1, ("container", "denied"): 1}
            if interfaces:
                assert (said, since(before, agent, "db")) == ("", local)
            else:
                assert (said, since(before, agent, "db")) == ("ECONNREFUSED", local | {REMOTE_DENIED: 1})


def wait_until_known(lab: Lab, place: Namespace, *, filtered: bool) -> None:
    """The host's new addresses and interface are."""

    def known() -> bool:
        at = [dial(lab, place, "plain", to, PORT, uid=UNLICENSED) for to in ("10.77.4.1", "fd77:4::1")]
        return {one["error"] for one in at} == {"EPERM"}

    wait_for(known, "the host's new addresses are known")
    if filtered:
        wait_for(lambda: "bpf" in tc_filters(lab, "to-users"), "the interface has a filter")


def tc_filters(lab: Lab, interface: str) -> str:
    return lab.call(lab.host, ["tc", "filter", "show", "dev", interface, "ingress"]).stdout


def test_what_was_said_of_a_port_is_not_said_for_ever(shared_lab: Lab, agent: RunningAgent) -> None:
    """The same source port: refused, in observe, enforced again, granted; while another target enforces."""
    lab, ours = shared_lab, V4[1]
    before = connections(agent, "db")
    assert connect(lab.remote, 40021, ours) == "ECONNREFUSED"
    agent.set_policy(POLICY.replace("MODE", "enforce, db: observe"))
    assert connect(lab.remote, 40021, ours) == ""
    agent.set_policy(ENFORCED)
    assert connect(lab.remote, 40021, ours) == "ECONNREFUSED"
    assert since(before, agent, "db") == {REMOTE_DENIED: 3}
    agent.set_policy(ENFORCED.replace("{uid: 1001}", "{uid: 1001}, {cidr: 10.77.2.0/24}"))
    assert connect(lab.remote, 40021, ours) == ""
    agent.set_policy(ENFORCED)
    assert connect(lab.remote, 40021, ours) == "ECONNREFUSED"
    assert since(before, agent, "db") == {REMOTE_DENIED: 4, ("remote", "allowed"): 1}


CLOSES_FIRST = """
import socket, sys
server = socket.create_server(("", int(sys.argv[1])))
while True:
    client, _ = server.accept()
    client.sendall(client.recv(1))
    client.close()
"""


def test_a_port_that_the_server_remembers_is_judged_anew(
    shared_lab: Lab, agent: RunningAgent, interfaces: list[str]
) -> None:
    """Its connection is in TIME_WAIT there, and the SYN comes to that first. Refused a listener, the kernel
    answers for that connection: the client resets it, and sends its SYN once more."""
    lab, ours = shared_lab, V4[1]

    def connect_and_wait_for_its_end() -> str:
        with namespaces.entered(lab.remote), socket.socket() as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind(("", 40051))
            try:
                client.connect((ours, CLOSING))
            except ConnectionRefusedError:
                return "refused"
            client.sendall(b"x")
            return (client.recv(1) + client.recv(1)).decode()

    server = lab.run(lab.host, [processes.PYTHON, "-ISc", CLOSES_FIRST, str(CLOSING)])
    processes.wait_until_listening(server, CLOSING)
    agent.set_policy(ENFORCED.replace("{uid: 1001}", "{uid: 1001}, {cidr: 10.77.2.0/24}"))
    assert [connect_and_wait_for_its_end() for _ in range(2)] == ["x", "x"]
    agent.set_policy(ENFORCED)
    before = connections(agent, "db")
    assert lab.call(lab.host, ["ss", "-Htan", "state", "time-wait", "sport", str(CLOSING)]).stdout
    assert connect_and_wait_for_its_end() == "refused"
    assert since(before, agent, "db") == {REMOTE_DENIED: 1 if interfaces else 2}
    processes.end(server)


SAID = struct.Struct("=QQIBBBB")
"""struct judged_syn: netns, time, sequence, refused, gate, foreign, vouched."""


def say(lab: Lab, agent: RunningAgent, source_port: int, age_ns: int, refused: int = 0) -> None:
    """To the socket gate, as the packet gate would: what became of a SYN from the remote."""
    ends = (to_address(V4[1]).packed, to_address(V4[0]).packed, PORT, source_port, 0)
    now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    row = SAID.pack(namespace(lab.host).cookie, now_ns - age_ns, 0, refused, abi.GATES.index("tc"), 0, 0)
    Pins(agent.files.pins).open_map("judged_syns").put(abi.TUPLE.pack(0, *ends), row)


@pytest.mark.parametrize("interfaces", [["lo"]], indirect=True, ids=["with the packet gate elsewhere"])
def test_what_was_let_by_is_so_for_milliseconds_and_for_one_packet(
    shared_lab: Lab, agent: RunningAgent
) -> None:
    lab, ours = shared_lab, V4[1]

    def passes_at_once() -> bool:
        say(lab, agent, 40022, age_ns=0)
        return connect(lab.remote, 40022, ours) == ""

    wait_for(passes_at_once, "a SYN that comes at once is not judged again")
    assert connect(lab.remote, 40022, ours) == "ECONNREFUSED", "the next one is"
    for age_ns in (20_000_000, 10**9):
        say(lab, agent, 40022, age_ns)
        assert connect(lab.remote, 40022, ours) == "ECONNREFUSED"
    agent.set_policy(ENFORCED.replace("{uid: 1001}", "{uid: 1001}, {cidr: 10.77.2.0/24}"))
    for age_ns in (0, 10**9):
        say(lab, agent, 40022, age_ns, refused=1)
        assert connect(lab.remote, 40022, ours) == "", "it may by now"
    agent.set_policy(ENFORCED)


@pytest.mark.parametrize("interfaces", [[]], indirect=True, ids=["without the packet gate"])
def test_what_the_packet_gate_said_ends_with_it(shared_lab: Lab, agent: RunningAgent) -> None:
    for _ in range(20):
        say(shared_lab, agent, 40023, age_ns=0)
        assert connect(shared_lab.remote, 40023, V4[1]) == "ECONNREFUSED"


@pytest.fixture(params=["syn cookies", "a queue"])
def between_the_gates(shared_lab: Lab, request: pytest.FixtureRequest) -> Iterator[None]:
    """What lies between a SYN at the interface and its connection. Cookies: an ACK makes the connection, and
    nothing else is left of the SYN. A queue (NFQUEUE): the SYN comes much later."""
    if request.param == "a queue":
        try:
            with delayed_syns(shared_lab.host, PORT, 0.03):
                yield
        except RuntimeError as error:
            pytest.skip(f"this kernel has no NFQUEUE: {error}")
        return
    setting = Path("/proc/sys/net/ipv4/tcp_syncookies")
    with namespaces.entered(shared_lab.host):
        before = setting.read_text()
        setting.write_text("2")
    yield
    with namespaces.entered(shared_lab.host):
        setting.write_text(before)


@pytest.mark.usefixtures("between_the_gates")
def test_what_comes_late_to_the_socket_meets_what_its_syn_met(
    shared_lab: Lab, agent: RunningAgent, interfaces: list[str]
) -> None:
    lab = shared_lab
    before = connections(agent, "db")
    refused = agent.total("licet_refused_total", service="db")
    for address in ("127.0.0.1", "::1", lab.host.v4):
        assert dial(lab, lab.host, "plain", address, PORT, uid=LICENSED)["error"] == "", address
    for address in (lab.host.v4, lab.host.v6):
        assert dial(lab, lab.container, "plain", address, PORT, uid=LICENSED)["error"] == "", address
    for _, ours in (V4, V6):
        assert connect(lab.remote, 40031, ours) == "ECONNREFUSED"
    assert since(before, agent, "db") == {
        ("loopback", "allowed"): 3,
        ("container", "allowed"): 2,
        REMOTE_DENIED: 2,
    }
    wider = '{uid: 1001}, {cidr: 10.77.2.0/24}, {cidr: "fd77:2::/64"}'
    agent.set_policy(ENFORCED.replace("{uid: 1001}", wider))
    for _, ours in (V4, V6):
        assert connect(lab.remote, 40032, ours) == ""
    agent.set_policy(ENFORCED)
    assert since(before, agent, "db")[("remote", "allowed")] == 2
    assert agent.total("licet_refused_total", service="db") == refused + 2
    if interfaces:
        with users_network(lab, LICENSED) as place, joined_to_host(lab, place):
            wait_until_known(lab, place, filtered=True)
            for address in ("10.77.4.1", "fd77:4::1"):
                assert dial(lab, place, "plain", address, PORT, uid=LICENSED)["error"] == "", address
