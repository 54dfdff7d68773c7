from __future__ import annotations

import dataclasses
import os
import socket as sockets
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent.daemon.listener_owners import ListenerOwners
from agent.daemon.listening import REMEMBERED, Listening, serving_process
from agent.kernel import abi
from agent.model import Address, HostFacts, Listener, ListenerState, Process, Protocol, to_address
from agent.observe.proc import ProcReader
from agent.policy.document import parse_policy
from agent.policy.hashing import path_hash
from agent.policy.values import Policy
from tests.unit.daemon.worlds import HERE, LOOPBACK, SEED
from tests.unit.kernel.memory_map import MemoryMap

HOST, CONTAINER = 1, 2
ANY4, ANY6, LOOPBACK6 = to_address("0.0.0.0"), to_address("::"), to_address("::1")
FACTS = HostFacts(host_netns=HOST, addresses=(HERE,))
POLICY = """
version: 1
services:
  db:
    product: acme
    owner: [{unit: postgresql.service}]
    ports: [{port: 5432, class: internal, bind: [127.0.0.0/8]}]
undeclared_listeners: UNDECLARED
"""
POSTGRES = Process(
    pid=26,
    start_boot_ns=1,
    comm="postgres",
    exe="/usr/bin/postgres",
    cgroup="/system.slice/postgresql.service",
    unit="postgresql.service",
)
NETCAT = Process(pid=99, start_boot_ns=1, comm="nc", exe="/usr/bin/nc", cgroup="/user.slice")


def policy(undeclared: str = "report") -> Policy:
    return parse_policy(POLICY.replace("UNDECLARED", undeclared))


def listener(address: Address, port: int, *owners: Process, netns: int = HOST, cookie: int = 0) -> Listener:
    return Listener(
        protocol=Protocol.TCP,
        family=sockets.AF_INET,
        address=address,
        port=port,
        netns=netns,
        cookie=cookie or port,
        inode=port,
        v6only=False,
        owners=owners,
    )


class SeenListeners:
    """An inventory of what a test says is there."""

    def __init__(self) -> None:
        self.now: list[Listener] = []

    def listeners(self) -> list[Listener]:
        return self.now


class World:
    def __init__(self, proc: Path) -> None:
        self.there = SeenListeners()
        self.owners = MemoryMap("owners")
        self.socket_owners = MemoryMap("socket_owners")
        self.listening = Listening(
            self.there,  # type: ignore[arg-type]
            ProcReader(proc),
            ListenerOwners(
                self.owners,  # type: ignore[arg-type]
                self.socket_owners,  # type: ignore[arg-type]
                ProcReader(proc),
                lambda path: path_hash(path, SEED),
            ),
        )

    def look(self, *listeners: Listener, by: Policy | None = None) -> list[tuple[int, ListenerState]]:
        """(port, state) of what is new and wrong."""
        self.there.now = list(listeners)
        return [(one.listener.port, state) for one, state in self.listening.look(by, FACTS)]

    def violations(self) -> dict[tuple[str, str, str], int]:
        return dict(self.listening.violations)


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_listener_as_declared_is_nothing_to_tell(world: World) -> None:
    assert world.look(listener(LOOPBACK, 5432, POSTGRES), by=policy()) == []
    assert world.listening.counts() == {("db", "loopback", ListenerState.DECLARED): 1}
    assert world.violations() == {}


def test_what_is_wrong_is_told_once_for_each_socket(world: World) -> None:
    wide = listener(ANY4, 5432, NETCAT)
    found = world.look(wide, by=policy())
    assert set(found) == {(5432, ListenerState.OWNER_MISMATCH), (5432, ListenerState.EXPOSED)}
    assert world.look(wide, by=policy()) == []
    assert world.violations() == {
        ("db", "internal", "owner_mismatch"): 1,
        ("db", "internal", "exposed_port"): 1,
    }


def test_a_socket_that_was_opened_again_is_another_violation(world: World) -> None:
    world.look(listener(LOOPBACK, 5432, NETCAT, cookie=1), by=policy())
    world.look(by=policy())
    assert world.look(listener(LOOPBACK, 5432, NETCAT, cookie=2), by=policy()) == [
        (5432, ListenerState.OWNER_MISMATCH)
    ]
    assert world.violations() == {("db", "internal", "owner_mismatch"): 2}


@pytest.mark.parametrize(
    ("undeclared", "told", "counted"), [("ignore", 0, 0), ("report", 1, 0), ("violation", 1, 1)]
)
def test_an_undeclared_listener_is_what_the_policy_makes_of_it(
    world: World, undeclared: str, told: int, counted: int
) -> None:
    found = world.look(listener(ANY4, 8080, NETCAT), by=policy(undeclared))
    assert found == [(8080, ListenerState.UNDECLARED)] * told
    assert sum(world.violations().values()) == counted


def test_without_a_policy_nothing_is_wrong_and_everything_is_listed(world: World) -> None:
    assert world.look(listener(ANY4, 6379, NETCAT)) == []
    (one,) = world.listening.judged
    assert (one.states, one.bind) == ((), "any")
    assert one.catalog


def test_exposures_count_listeners_that_are_exposed_now(world: World) -> None:
    world.look(listener(ANY4, 5432, POSTGRES), by=policy())
    assert [(str(target), count) for target, count in world.listening.exposures().items()] == [
        ("db/internal", 1)
    ]
    world.look(listener(LOOPBACK, 5432, POSTGRES), by=policy())
    assert world.listening.exposures() == {}


def test_the_agents_own_listener_is_not_judged(world: World) -> None:
    assert world.look(listener(LOOPBACK, 9477, Process(pid=os.getpid())), by=policy("violation")) == []
    assert world.listening.judged == []


@pytest.mark.parametrize(
    ("owners", "pid"),
    [
        ((), None),
        ((Process(pid=1), Process(pid=7)), 7),
        ((Process(pid=1),), 1),
        ((Process(pid=5), Process(pid=7)), 5),
    ],
    ids=["nobody", "passed on by init", "held by init", "master and workers"],
)
def test_who_serves_is_not_the_supervisor_that_passed_the_socket_on(
    owners: tuple[Process, ...], pid: int | None
) -> None:
    found = serving_process(listener(ANY4, 80, *owners))
    assert (found.pid if found else None) == pid


@pytest.mark.parametrize("bound", [LOOPBACK, ANY4, ANY6])
def test_a_port_is_owned_by_whoever_listens_at_its_address_or_at_all(world: World, bound: Address) -> None:
    world.look(listener(bound, 5432, POSTGRES))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES
    assert world.listening.owner_of(HOST, 5433, LOOPBACK) is None


def test_the_exact_address_goes_before_a_wildcard(world: World) -> None:
    world.look(listener(ANY4, 80, NETCAT, cookie=1), listener(HERE, 80, POSTGRES, cookie=2))
    assert world.listening.owner_of(HOST, 80, HERE) == POSTGRES
    assert world.listening.owner_of(HOST, 80, LOOPBACK) == NETCAT


@pytest.mark.parametrize(("asked", "bound"), [(ANY4, LOOPBACK), (ANY6, LOOPBACK6)])
def test_an_unspecified_address_is_served_on_loopback(world: World, asked: Address, bound: Address) -> None:
    world.look(listener(bound, 5432, POSTGRES))
    assert world.listening.owner_of(HOST, 5432, asked) == POSTGRES


def test_a_routable_address_may_be_served_in_another_namespace_and_loopback_never(world: World) -> None:
    world.look(listener(ANY4, 80, NETCAT, netns=CONTAINER))
    assert world.listening.owner_of(HOST, 80, HERE) == NETCAT
    assert world.listening.owner_of(HOST, 80, LOOPBACK) is None


def test_an_owner_heard_at_listen_is_known_before_the_next_look_and_after_it_is_gone(world: World) -> None:
    world.listening.heard(HOST, 5432, LOOPBACK, POSTGRES)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES
    world.look()
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES


def test_an_owner_has_one_start_whoever_told_it(world: World) -> None:
    exact = dataclasses.replace(POSTGRES, start_boot_ns=6_603_180_123_456)
    rounded = dataclasses.replace(POSTGRES, start_boot_ns=6_603_180_000_000)
    world.listening.heard(HOST, 5432, LOOPBACK, exact)
    world.look(listener(LOOPBACK, 5432, rounded))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == exact


def test_a_pid_that_was_reused_is_another_owner(world: World) -> None:
    world.listening.heard(HOST, 5432, LOOPBACK, dataclasses.replace(POSTGRES, start_boot_ns=10**12))
    later = dataclasses.replace(NETCAT, pid=POSTGRES.pid, start_boot_ns=10**13)
    world.look(listener(LOOPBACK, 5432, later))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == later


def test_the_newest_owner_of_a_port_wins(world: World) -> None:
    world.look(listener(LOOPBACK, 5432, POSTGRES))
    world.listening.heard(HOST, 5432, LOOPBACK, NETCAT)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == NETCAT


def test_only_so_many_owners_are_remembered_the_newest_of_them(world: World) -> None:
    for number in range(REMEMBERED + 10):
        owner = dataclasses.replace(NETCAT, pid=1000 + number)
        world.listening.heard(number, 80, LOOPBACK, owner)
    assert world.listening.owner_of(0, 80, LOOPBACK) is None
    assert world.listening.owner_of(REMEMBERED + 9, 80, LOOPBACK) is not None


LISTEN = """
import os, socket, sys
held = socket.socket()
held.bind(("127.0.0.1", 0))
held.listen()
print(held.getsockname()[1], os.fstat(held.fileno()).st_ino, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def server() -> Iterator[tuple[int, int, int]]:
    """(pid, port, socket inode) of a process that listens."""
    with subprocess.Popen(
        [sys.executable, "-c", LISTEN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as child:
        assert child.stdout is not None
        port, inode = child.stdout.readline().split()
        yield child.pid, int(port), int(inode)  # leaving the block closes its stdin, which ends it


@pytest.mark.root
def test_the_kernel_is_told_once_who_holds_a_listener_from_before(server: tuple[int, int, int]) -> None:
    pid, port, inode = server
    world = World(Path("/proc"))
    owner = Process(pid=pid, start_boot_ns=5, exe="/usr/bin/server", uid=1000, gid=100)
    before = dataclasses.replace(listener(LOOPBACK, port, owner), inode=inode)
    declared = parse_policy(
        f"version: 1\nservices: {{db: {{product: acme, ports: [{{port: {port}, class: internal}}]}}}}\n"
    )
    world.look(before)
    assert world.owners.rows == {}, "no service declares the port: its connections shall not pay for a name"
    world.look(before, by=declared)
    (identity,) = [abi.ListenerOwner.from_buffer_copy(value).process for value in world.owners.rows.values()]
    assert (identity.pid, identity.start_ns, identity.uid, identity.gid) == (pid, 5, 1000, 100)
    assert (identity.exe, identity.netns) == (path_hash("/usr/bin/server", SEED), HOST)
    world.owners.rows.clear()
    world.look(before, by=declared)
    assert world.owners.rows == {}, "nothing has changed"
    other = dataclasses.replace(owner, start_boot_ns=10**9)
    world.look(dataclasses.replace(before, owners=(other,)), by=declared)
    assert len(world.owners.rows) == 1, "it changed hands"


def test_a_listener_whose_process_is_gone_is_passed_over(world: World) -> None:
    gone = dataclasses.replace(NETCAT, pid=2**22 - 1)
    world.look(listener(LOOPBACK, 5432, gone))
    assert world.owners.rows == {}
    assert len(world.listening.judged) == 1
