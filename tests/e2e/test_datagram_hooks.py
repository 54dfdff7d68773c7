"""UDP: what watches it is there while a port of it is declared, and outlives the daemon."""

from __future__ import annotations

import time
from contextlib import closing

import pytest

from agent.kernel.pins import ABI_VERSION, Pins
from tests.fixtures import datagrams, processes
from tests.fixtures.datagrams import Held, Sent
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import connections
from tests.fixtures.waiting import wait_for

LICENSED, UNLICENSED = 1001, 1002
PORT = 5300


def policy(protocol: str, mode: str) -> str:
    return datagrams.policy(PORT, licensed=LICENSED, mode=mode, protocol=protocol)


def links(agent: RunningAgent) -> set[str]:
    """Names of the links that are there for UDP alone."""
    folder = agent.files.pins / str(ABI_VERSION) / "links"
    names = {path.name.rstrip("0123456789_") for path in folder.iterdir()}
    return names & {
        "observe_send",
        "observe_datagram_connect",
        "note_datagram",
        "observe_receive",
        "observe_arrival",
        "refuse_send",
        "refuse_datagram_connect",
    }


OBSERVERS = {
    "observe_send",
    "observe_datagram_connect",
    "note_datagram",
    "observe_arrival",
}
GATES = {"refuse_send", "refuse_datagram_connect"}


def test_nothing_is_attached_where_no_port_is_declared(lab: Lab) -> None:
    with lab.agent(policy("tcp", "observe")) as agent:
        assert links(agent) == set()
        hooks = {one["hook"]: one for one in agent.status()["hooks"]}
        assert hooks["datagram"]["attached_to"] == ""
        assert hooks["datagram"]["note"] == "no port of UDP is declared"
        agent.set_policy(policy("udp", "observe"))
        assert links(agent) == OBSERVERS, "none that could refuse"
        hooks = {one["hook"]: one for one in agent.status()["hooks"]}
        assert hooks["datagram"]["attached_to"] == hooks["datagram_sent"]["attached_to"] == lab.scope
        assert hooks["datagram_arrival"]["attached_to"] == "2 network namespaces"
        assert hooks["datagram_received"]["attached_to"] == ""
        assert hooks["datagram_received"]["note"] == "each port of UDP is this host's"
        agent.set_policy(policy("udp", "enforce"))
        assert links(agent) == (OBSERVERS - {"observe_arrival"}) | GATES, "the socket gate judges arrivals"
        arrival = {one["hook"]: one for one in agent.status()["hooks"]}["datagram_arrival"]
        assert arrival["attached_to"] == "0 network namespaces"
        assert arrival["note"] == "in 2 network namespaces the socket gate judges what arrives"
        agent.set_policy(policy("udp", "observe"))
        assert links(agent) == OBSERVERS
        agent.set_policy(policy("udp", "observe").replace("dns: {", "dns: {at: [192.0.2.0/24], "))
        assert links(agent) == OBSERVERS | {"observe_receive"}, "what comes from there may be answered"
        agent.set_policy(policy("udp", "observe"))
        assert links(agent) == OBSERVERS
        agent.set_policy(policy("tcp", "enforce"))
        assert links(agent) == set()


def test_what_was_declared_later_is_refused_at_once(lab: Lab) -> None:
    """The observer of senders is attached behind the connect gate then."""
    datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    with lab.agent(policy("tcp", "enforce")) as agent:
        agent.set_policy(policy("udp", "enforce"))
        for way in ("sendto", "connect"):
            assert datagrams.send(lab, lab.host, way, "127.0.0.1", PORT, uid=UNLICENSED).errors == {
                "EPERM": 1
            }
            assert datagrams.send(lab, lab.host, way, "127.0.0.1", PORT, uid=LICENSED) == Sent(1)
        assert connections(agent, "dns") == {("loopback", "denied"): 2, ("loopback", "allowed"): 2}


@pytest.mark.parametrize("mode", ["observe", "enforce"])
def test_it_goes_on_without_a_daemon_and_counts_nothing_twice(lab: Lab, mode: str) -> None:
    datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    answered = 0 if mode == "enforce" else 1
    with lab.agent(policy("udp", mode)) as agent:
        agent.kill9()
        for way in ("sendto", "connect"):
            for uid, expected in ((LICENSED, 1), (UNLICENSED, answered)):
                said = datagrams.send(lab, lab.host, way, "127.0.0.1", PORT, uid=uid)
                assert said.answered == expected, (way, uid)
        remote = datagrams.send(lab, lab.remote, "sendto", "10.77.2.1", PORT, count=3)
        assert remote.answered == 3 * answered
        agent.start()
        counted = {("loopback", "allowed"): 2, ("loopback", "denied"): 2, ("remote", "denied"): 1}
        assert connections(agent, "dns") == counted
        assert datagrams.send(lab, lab.remote, "sendto", "10.77.2.1", PORT).answered == answered
        assert connections(agent, "dns") == counted, "the same address, a moment later"


def test_a_steady_sender_counts_once_under_reloads(lab: Lab) -> None:
    """The verdict is the same under each: one socket, one attempt."""
    server = datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    with lab.agent(policy("udp", "observe")) as agent:
        held = lab.run(
            lab.host,
            [processes.PYTHON, "-ISuc", STEADY, str(PORT)],
            uid=UNLICENSED,
        )
        wait_for(lambda: connections(agent, "dns"), "the first one")
        for number in range(5):
            agent.set_policy(policy("udp", "observe") + f"# {number}\n")
        assert held.poll() is None
        processes.end(held)
        assert connections(agent, "dns") == {("loopback", "denied"): 1}
    processes.end(server)


STEADY = """
import socket, sys, time
sender = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    sender.sendto(b"x", ("127.0.0.1", int(sys.argv[1])))
    time.sleep(0.01)  # its pace
"""


def test_what_others_push_out_of_the_tables_is_nobody_elses_right(lab: Lab) -> None:
    """What was said of a connected socket is kept by the socket."""
    datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    with lab.agent(policy("udp", "enforce")) as agent:
        held = Held(lab, lab.host, "127.0.0.1", PORT, count=50, pause_s=0.05, uid=LICENSED)
        held.begin()
        emptied = 0
        while held.process.poll() is None:
            for name in ("senders", "sents"):
                with closing(Pins(agent.files.pins).open_map(name)) as table:
                    emptied += sum(table.remove(key) for key in list(table))
            time.sleep(0.05)  # what is on its way, for microseconds, is not meant
        assert held.end() == Sent(50)
        assert emptied >= 10
        assert connections(agent, "dns") == {("loopback", "allowed"): 1}


def test_who_is_licensed_since_goes_on_with_the_socket_he_has(lab: Lab) -> None:
    """Denied while it was observed; then licensed by the policy that enforces."""
    datagrams.serve(lab, lab.host, "0.0.0.0", PORT)
    with lab.agent(policy("udp", "observe")) as agent:
        held = Held(lab, lab.host, "127.0.0.1", PORT, count=3, uid=UNLICENSED)
        agent.set_policy(policy("udp", "enforce").replace(f"uid: {LICENSED}", f"uid: {UNLICENSED}"))
        held.begin()
        assert held.end() == Sent(3)
