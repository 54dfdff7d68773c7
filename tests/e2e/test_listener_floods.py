"""A user who listens at more places than the table of owners has room for: nobody's verdict changes by
it, and what can't be told any more is counted."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import closing, contextmanager

from agent import abi
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from tests.e2e.test_strangers import PORT, Server, counted, reach, servers
from tests.fixtures import processes
from tests.fixtures.lab import Lab
from tests.fixtures.running_agent import RunningAgent
from tests.fixtures.saying import told
from tests.fixtures.waiting import wait_for

__all__ = ["servers"]
OPEN = 40078
ROOM = 16384
USER = 1202
POLICY = f"""\
version: 1
services:
  db:
    product: acme
    owner: [{{unit: db.service}}, {{uid: 1201}}]
    ports: [{{port: {PORT}, class: internal}}]
  open: {{product: acme, ports: [{{port: {OPEN}, class: internal}}]}}
licenses:
  - {{id: acme, product: acme, entitlements: [{{id: use, classes: [internal], principals: [anyone]}}]}}
enforcement: {{default: enforce}}
"""
FLOOD = """
import resource, socket, struct, sys
port, first, count = map(int, sys.argv[1:])
hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
held = []
for number in range(first, first + count):
    one = socket.socket()
    one.setsockopt(socket.SOL_IP, 51, struct.pack("=I", port << 16 | port))  # IP_LOCAL_PORT_RANGE
    one.bind((socket.inet_ntoa(struct.pack("!I", 127 << 24 | 1 << 20 | number)), 0))
    one.listen()
    held.append(one)
print("listening", flush=True)
sys.stdin.read()
"""
"""Nobody owns a port that the kernel gives: the bind gate has nothing to refuse."""


@contextmanager
def flood(lab: Lab, port: int, count: int = ROOM) -> Iterator[None]:
    """As many listeners of a user's, each at a loopback address of its own."""
    argv = [processes.PYTHON, "-Ic", FLOOD, str(port)]
    several = [
        lab.run(
            lab.host,
            [*argv, str(first), str(min(4096, count - first))],
            uid=USER,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        for first in range(0, count, 4096)
    ]
    try:
        for one in several:
            assert one.stdout
            assert one.stdout.readline() == "listening\n"
        yield
    finally:
        for one in several:
            processes.end(one)


@contextmanager
def unattended(agent: RunningAgent) -> Iterator[Counters]:
    """What the programs note, with no daemon that looks after them."""
    agent.wait_until_it_stands_by()
    with closing(Counters(Pins(agent.files.pins))) as counters:
        agent.kill9()
        yield counters


def test_rows_of_strangers_go_as_they_close_and_all_others_at_the_next_look(shared_lab: Lab) -> None:
    lab = shared_lab
    with lab.agent(POLICY) as agent, unattended(agent) as counters:
        before = len(list(counters.owners))
        kept = Server(lab, lab.host, address="127.0.0.1", port=PORT, cgroup="db.service")
        with flood(lab, OPEN, 500), flood(lab, PORT, 500):
            assert len(list(counters.owners)) == before + 1001
        assert len(list(counters.owners)) == before + 501
        assert counters.losses()["storage"] == 0
        agent.start()
        wait_for(lambda: len(list(counters.owners)) == before + 1, "a look has taken back the others")
        kept.end()


def test_rows_of_listeners_that_are_closed_take_nobodys_room(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent, unattended(agent) as counters:
        with flood(lab, OPEN):
            pass
        assert len(list(counters.owners)) == ROOM
        stranger = Server(lab, host, address="127.0.0.1")
        assert reach(lab) == "ECONNREFUSED"
        stranger.end()
        assert list(counters.more_strangers) == []
        owner = Server(lab, host, address="127.0.0.1", port=PORT, cgroup="db.service")
        assert reach(lab) == "ok"
        agent.start()
        wait_for(lambda: len(list(counters.owners)) < 10, "a look has taken them back")
        assert reach(lab) == "ok"
        owner.end()


def test_a_flood_of_harmless_listeners_hides_no_stranger_and_no_owner(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent, unattended(agent) as counters:
        with flood(lab, OPEN):
            assert len(list(counters.owners)) == ROOM
            stranger = Server(lab, host, address="127.0.0.1")
            assert reach(lab) == "ECONNREFUSED"
            assert len(list(counters.more_strangers)) == 1
            lost = counters.losses()["storage"]
            assert lost > 0
            agent.start(timeout_s=60)
            agent.control("POST", "/v1/reload")  # a look, which finds no room either
            assert reach(lab) == "ECONNREFUSED"
            told(agent, {"type": "listener", "reason": "owner_mismatch", "service": "db"})
            assert agent.total("licet_events_lost_total", cause="storage") >= lost
            stranger.end()
            assert list(counters.more_strangers) == []
            owner = Server(lab, host, address="127.0.0.1", port=PORT, cgroup="db.service")
            assert {reach(lab) for _ in range(3)} == {"ok"}
            served = lab.serve(host, "127.0.0.1", OPEN, uid=1300)
            with_name = lab.run(
                host, [processes.PYTHON, "-Ic", HOLD, str(OPEN)], uid=1300, stdin=subprocess.PIPE
            )

            def names() -> list[int]:
                return [one["owner"]["pid"] for one in agent.flows() if one["service"] == "open"]

            assert wait_for(names, "the flow is there") == [served.pid]
            for one in (with_name, served):
                processes.end(one)
            owner.end()
        assert counted(agent)[0] == 2, "refused at the socket: who came to the stranger, nobody else"


HOLD = """
import socket, sys
held = socket.create_connection(("127.0.0.1", int(sys.argv[1])))
sys.stdin.read()
"""


def test_where_strangers_find_no_room_only_known_owners_are_reached(shared_lab: Lab) -> None:
    lab, host = shared_lab, shared_lab.host
    with lab.agent(POLICY) as agent, unattended(agent) as counters:
        target = abi.U32.pack(next(row.stranger_to for row in stranger_rows(lab, counters)))
        with flood(lab, OPEN):
            owner = Server(lab, host, address="127.0.0.1", port=PORT, cgroup="db.service")
            with flood(lab, PORT):
                assert len(list(counters.more_strangers)) == ROOM
                assert counters.crowded.get(target) == bytes(8), "each has a row"
                stranger = Server(lab, host, address="127.0.0.2")
                assert counters.crowded.get(target) != bytes(8)
                assert reach(lab, "127.0.0.2") == "ECONNREFUSED"
                assert reach(lab, "127.0.0.1") == "ok"
                owner.end()
                owner = Server(lab, host, address="127.0.0.3", port=PORT, cgroup="db.service")
                assert reach(lab, "127.0.0.3") == "ok", "who comes meanwhile finds room, too"
            owner.end()
        assert reach(lab, "127.0.0.2") == "ECONNREFUSED", "he has no row yet"
        agent.start()

        def over() -> bool:
            looked, since = (counters.crowded.get(key) or b"" for key in (abi.U32.pack(0), target))
            return abi.U64.unpack(looked) > abi.U64.unpack(since)

        wait_for(over, "a look has noted every stranger")
        assert reach(lab, "127.0.0.2") == "ECONNREFUSED", "he has one"
        stranger.end()


def stranger_rows(lab: Lab, counters: Counters) -> list[abi.ListenerOwner]:
    """Of one that listens for a moment."""
    one = Server(lab, lab.host, address="127.0.0.9")
    found = [abi.ListenerOwner.from_buffer_copy(raw) for _, raw in counters.owners.items()]
    one.end()
    return [row for row in found if row.stranger_to]
