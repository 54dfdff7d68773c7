from __future__ import annotations

import dataclasses
import os
import socket as sockets
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent import abi
from agent.daemon.tracking.listener_owners import ListenerOwners, place_of
from agent.daemon.tracking.listener_rows import ListenerRows
from agent.daemon.tracking.listeners import REMEMBERED, Listening, serving_process
from agent.model import Address, HostFacts, Listener, ListenerState, Process, Protocol, to_address
from agent.observe.proc import ProcReader
from agent.policy.document.load import parse_policy
from agent.policy.terms.hashing import path_hash
from agent.policy.values import Policy
from tests.unit.daemon.worlds import DB, HERE, LOOPBACK, SEED, new_names, numbered
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

    def sees_own(self) -> bool:
        return True

    def listeners(self, openers: Mapping[int, Process], others: object) -> list[Listener]:
        return [
            one if one.owners else dataclasses.replace(one, opener=openers.get(one.cookie))
            for one in self.now
        ]


class World:
    def __init__(self, proc: Path) -> None:
        self.there = SeenListeners()
        self.owners = MemoryMap("owners")
        self.strangers = MemoryMap("more_strangers")
        self.rightful = MemoryMap("more_owners")
        self.crowded = MemoryMap("crowded")
        self.socket_owners = MemoryMap("socket_owners")
        self.listening = Listening(
            self.there,  # type: ignore[arg-type]
            ProcReader(proc),
            ListenerOwners(
                ListenerRows(self.owners, self.strangers, self.rightful, self.crowded),  # type: ignore[arg-type]
                self.socket_owners,  # type: ignore[arg-type]
                ProcReader(proc),
                new_names(),
            ),
            numbered(DB),
        )

    def look(self, *listeners: Listener, by: Policy | None = None) -> list[tuple[int, ListenerState]]:
        """(port, state) of what is new and wrong."""
        self.there.now = list(listeners)
        return [(one.listener.port, state) for one, state in self.listening.look(by, FACTS)]

    def violations(self) -> dict[tuple[str, str, str], int]:
        return self.listening.violations.counts()


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


def test_nobody_known_to_hold_a_listener_is_shown_and_is_no_violation(world: World) -> None:
    world.listening.heard(7, HOST, 5432, LOOPBACK, POSTGRES)
    for cookie in (7, 8):
        assert world.look(listener(LOOPBACK, 5432, cookie=cookie), by=policy()) == []
        assert world.listening.counts() == {("db", "loopback", ListenerState.OWNER_UNKNOWN): 1}
    assert world.violations() == {}


def test_a_stranger_that_the_kernel_named_is_one_though_nobody_has_seen_him_hold_it(world: World) -> None:
    world.listening.heard(7, HOST, 5432, LOOPBACK, NETCAT)
    assert world.look(listener(LOOPBACK, 5432, cookie=7), by=policy()) == [
        (5432, ListenerState.OWNER_MISMATCH)
    ]
    (judged,) = world.listening.judged
    assert "/usr/bin/nc" in judged.explanation


def test_what_a_socket_units_process_has_opened_and_left_is_no_strangers(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until pid 1 is seen to hold it, nobody is known to."""
    monkeypatch.setattr(ProcReader, "sees_initial_pids", lambda _: True)
    opener = Process(pid=20, uid=0, comm="(sd-listen)", cgroup="/system.slice/db.socket", unit="db.socket")
    world.listening.heard(7, HOST, 5432, LOOPBACK, opener)
    one = dataclasses.replace(listener(LOOPBACK, 5432, cookie=7), uid=0)
    assert world.look(one, by=policy()) == []
    assert world.listening.counts() == {("db", "loopback", ListenerState.OWNER_UNKNOWN): 1}
    assert world.look(dataclasses.replace(one, owners=(opener,)), by=policy()) == [], "it holds it still"
    init = Process(pid=1, uid=0, comm="systemd", exe="/usr/lib/systemd/systemd", cgroup="/init.scope")
    assert world.look(dataclasses.replace(one, owners=(init,)), by=policy()) == []
    assert world.listening.counts() == {("db", "loopback", ListenerState.DECLARED): 1}


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


def test_of_several_that_share_a_place_only_what_they_have_in_common_is_said(world: World) -> None:
    other = dataclasses.replace(POSTGRES, pid=27, start_boot_ns=2)
    world.look(listener(LOOPBACK, 5432, POSTGRES, cookie=1), listener(LOOPBACK, 5432, other, cookie=2))
    owner = world.listening.owner_of(HOST, 5432, LOOPBACK)
    assert owner == dataclasses.replace(POSTGRES, pid=0, start_boot_ns=0)
    world.look(listener(LOOPBACK, 5432, other, cookie=2))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == other


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
    world.listening.heard(1, HOST, 5432, LOOPBACK, POSTGRES)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES
    world.look()
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES


def test_an_owner_has_one_start_whoever_told_it(world: World) -> None:
    exact = dataclasses.replace(POSTGRES, start_boot_ns=6_603_180_123_456)
    rounded = dataclasses.replace(POSTGRES, start_boot_ns=6_603_180_000_000)
    world.listening.heard(1, HOST, 5432, LOOPBACK, exact)
    world.look(listener(LOOPBACK, 5432, rounded))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == exact


def test_a_pid_that_was_reused_is_another_owner(world: World) -> None:
    world.listening.heard(1, HOST, 5432, LOOPBACK, dataclasses.replace(POSTGRES, start_boot_ns=10**12))
    later = dataclasses.replace(NETCAT, pid=POSTGRES.pid, start_boot_ns=10**13)
    world.look(listener(LOOPBACK, 5432, later))
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == later


def test_the_newest_owner_of_a_port_wins(world: World) -> None:
    world.look(listener(LOOPBACK, 5432, POSTGRES))
    world.listening.heard(1, HOST, 5432, LOOPBACK, NETCAT)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == NETCAT


def test_only_so_many_owners_are_remembered_the_newest_of_them(world: World) -> None:
    for number in range(REMEMBERED + 10):
        owner = dataclasses.replace(NETCAT, pid=1000 + number)
        world.listening.heard(number, number, 80, LOOPBACK, owner)
    assert world.listening.owner_of(0, 80, LOOPBACK) is None
    assert world.listening.owner_of(REMEMBERED + 9, 80, LOOPBACK) is not None


def test_a_port_that_nobody_serves_is_known_after_a_look(world: World) -> None:
    assert world.listening.unserved == []
    world.look(listener(LOOPBACK, 80, NETCAT), by=policy())
    assert [(str(one.target), str(one.port)) for one in world.listening.unserved] == [
        ("db/internal", "5432/tcp")
    ]
    world.look(listener(LOOPBACK, 5432, POSTGRES), by=policy())
    assert world.listening.unserved == []
    world.look(by=None)
    assert world.listening.unserved == []


def test_very_many_listeners_of_one_push_nobody_out(world: World) -> None:
    crowd = [
        listener(LOOPBACK, 10_000 + n, NETCAT, netns=3, cookie=10_000 + n) for n in range(REMEMBERED + 10)
    ]
    world.look(listener(LOOPBACK, 5432, POSTGRES), *crowd)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == POSTGRES
    assert world.listening.owner_of(3, 10_000, LOOPBACK) == NETCAT


class Unsearched(dict[Any, Any]):
    """As large as a user makes it: nothing that is asked for each event may go through it."""

    def __iter__(self) -> Iterator[Any]:
        raise AssertionError("searched")

    copy = keys = values = items = __iter__  # type: ignore[assignment]


def test_what_somebody_has_listened_at_is_not_searched_for_each_event(world: World) -> None:
    crowd = [listener(HERE, 10_000 + n, NETCAT, netns=3, cookie=10_000 + n) for n in range(REMEMBERED)]
    world.look(*crowd)
    world.look()
    places = world.listening._places
    for name in ("_now", "_before", "_by_spot", "_before_by_spot"):
        setattr(places, name, Unsearched(getattr(places, name)))
    assert world.listening.owner_of(HOST, 9_999, HERE) is None
    assert world.listening.owner_of(HOST, 10_001, HERE) == NETCAT


def test_who_listened_at_loopback_addresses_makes_nobody_else_forgotten(world: World) -> None:
    world.look(listener(HERE, 5432, POSTGRES))
    world.look(*(listener(Address(int(LOOPBACK) + n), 80, NETCAT, cookie=n) for n in range(9, REMEMBERED)))
    world.look()
    assert world.listening.owner_of(CONTAINER, 5432, HERE) == POSTGRES


def test_one_that_is_gone_is_remembered_as_the_last_that_served(world: World) -> None:
    world.look(listener(HERE, 5432, POSTGRES))
    world.look()
    assert world.listening.owner_of(HOST, 5432, HERE) == POSTGRES
    assert world.listening.owner_of(CONTAINER, 5432, HERE) == POSTGRES
    assert world.listening.owner_of(CONTAINER, 5433, HERE) is None


def test_what_is_as_it_was_is_not_judged_again(world: World) -> None:
    by, other = policy(), policy("violation")
    one, moved = listener(LOOPBACK, 5432, NETCAT), listener(LOOPBACK, 5432, POSTGRES)
    world.look(one, by=by)
    world.look(one, by=by)  # a stranger since the look before
    (first,) = world.listening.judged
    world.look(dataclasses.replace(one), by=by)
    assert world.listening.judged[0] is first
    world.look(moved, by=by)
    assert [each.states for each in world.listening.judged] == [(ListenerState.DECLARED,)]
    for facts, now in ((FACTS, other), (dataclasses.replace(FACTS, users={"ann": 7}), other)):
        (before,) = world.listening.judged
        world.there.now = [moved]
        world.listening.look(now, facts)
        assert world.listening.judged[0] is not before


@pytest.mark.parametrize(
    "changes",
    [
        {"gathered_boot_ns": 5},
        {"cgroups": {"/a": 1}},
        {"executables": frozenset({"/usr/bin/new"}), "for_anybody": frozenset({"/usr/bin/new"})},
        {"wall_offset_ns": 7, "clock_synced": False},
    ],
    ids=lambda changes: " ".join(changes),
)
def test_what_no_judgement_reads_of_a_host_makes_none_anew(world: World, changes: dict[str, Any]) -> None:
    by, one = policy(), listener(LOOPBACK, 5432, POSTGRES)
    world.look(one, by=by)
    (first,) = world.listening.judged
    world.listening.look(by, dataclasses.replace(FACTS, **changes))
    assert world.listening.judged[0] is first


class CountedMap(MemoryMap):
    """Counts look-ups, each of which is a system call in the kernel's map."""

    asked = 0

    def get(self, key: bytes) -> bytes | None:
        self.asked += 1
        return super().get(key)


def test_of_listeners_that_are_as_they_were_the_kernel_is_not_asked_one_by_one(world: World) -> None:
    counted = CountedMap("owners", max_entries=1000)
    world.listening.owners = dataclasses.replace(
        world.listening.owners,
        rows=dataclasses.replace(world.listening.owners.rows, owners=counted),  # type: ignore[arg-type]
    )
    by = ranges("5000-5099")
    there = [listener(LOOPBACK, port, POSTGRES) for port in range(5000, 5100)]
    for _ in range(3):
        world.look(*there, by=by)
    asked, rows_before = counted.asked, dict(counted.rows)
    assert len(rows_before) == len(there)
    world.look(*there, by=by)
    world.look(*map(dataclasses.replace, there), by=by)
    assert (counted.asked, counted.rows) == (asked, rows_before)
    world.look(*there[1:], listener(LOOPBACK, 5000, NETCAT, cookie=77), by=by)
    assert 0 < counted.asked - asked <= 4
    assert len(counted.rows) == len(there)


def test_a_row_that_a_program_wrote_since_is_seen_by_the_next_look(world: World) -> None:
    one, by = listener(LOOPBACK, 5432, POSTGRES), policy()
    for _ in range(3):
        assert world.look(one, by=by) == []
    (place, settled) = next(iter(world.owners.rows.items()))
    row = abi.ListenerOwner.from_buffer_copy(settled)
    row.stranger_to, row.flags = world.listening.ids.target(DB), row.flags & ~abi.Listener.OWNER
    world.owners.rows[place] = bytes(row)
    world.look(one, by=by)
    assert world.listening.judged[0].listener.strange
    for _ in range(2):
        world.look(one, by=by)
    assert world.owners.rows[place] == settled, "its holder is an owner that may serve it"


def test_who_called_listen_since_the_last_look_serves(world: World) -> None:
    one, by = listener(LOOPBACK, 5432, POSTGRES), policy()
    world.look(one, by=by)
    exact = dataclasses.replace(POSTGRES, start_boot_ns=POSTGRES.start_boot_ns + 5)
    world.listening.heard(one.cookie, HOST, 5432, LOOPBACK, exact)
    world.look(one, by=by)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == exact
    briefly = dataclasses.replace(NETCAT, pid=1234)
    world.listening.heard(4711, HOST, 5432, LOOPBACK, briefly)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == briefly
    world.look(one, by=by)
    assert world.listening.owner_of(HOST, 5432, LOOPBACK) == exact, "the other one is gone"


def test_unserved_ports_follow_listeners_policy_and_namespaces(world: World) -> None:
    by, other = ranges("5000-5001"), ranges("5000-5001", "6000-6001")
    one = listener(LOOPBACK, 5000, POSTGRES)

    def missing(*there: Listener, by: Policy, facts: HostFacts = FACTS) -> list[str]:
        world.there.now = list(there)
        world.listening.look(by, facts)
        return [str(found.port) for found in world.listening.unserved]

    assert missing(by=by) == ["5000-5001/tcp"]
    assert missing(one, by=by) == []
    assert missing(one, by=by) == []
    assert missing(one, by=other) == ["6000-6001/tcp"]
    assert missing(one, listener(LOOPBACK, 40_000, NETCAT), by=other) == ["6000-6001/tcp"]
    assert missing(dataclasses.replace(one, transparent=True), by=other) == []
    assert missing(by=by) == ["5000-5001/tcp"]


def ranges(*ports: str) -> Policy:
    declared = ", ".join(f"{{port: {each}, class: internal}}" for each in ports)
    service = f"{{product: acme, owner: [{{unit: postgresql.service}}], ports: [{declared}]}}"
    return parse_policy(f"version: 1\nservices: {{db: {service}}}\n")


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
    (row,) = world.owners.rows.values()
    world.look(before, by=declared)
    assert next(iter(world.owners.rows.values())) is row, "nothing has changed"
    world.owners.rows.clear()
    world.look(before, by=declared)
    assert len(world.owners.rows) == 1, "it was lost"
    other = dataclasses.replace(owner, start_boot_ns=10**9)
    world.look(dataclasses.replace(before, owners=(other,)), by=declared)
    assert len(world.owners.rows) == 1, "it changed hands"


def test_a_listener_whose_process_is_gone_is_passed_over(world: World) -> None:
    gone = dataclasses.replace(NETCAT, pid=2**22 - 1)
    world.look(listener(LOOPBACK, 5432, gone))
    assert world.owners.rows == {}
    assert len(world.listening.judged) == 1


def noted_by_kernel(world: World, one: Listener, process: Process, flags: int = 0) -> None:
    """As on_listen() in bpf/hooks/flow_tracker.c leaves it."""
    place = abi.OwnerKey(netns=one.netns, address=abi.RawAddress.of(one.address), port=one.port)
    row = abi.ListenerOwner(cookie=one.cookie, socket=0xFFFF888000000000, flags=flags)
    row.process.pid, row.process.start_ns, row.process.exe = process.pid, process.start_boot_ns, 7
    world.owners.rows[bytes(place)] = bytes(row)


def rows(world: World) -> list[abi.ListenerOwner]:
    return [abi.ListenerOwner.from_buffer_copy(value) for value in world.owners.rows.values()]


def test_what_the_kernel_has_noted_of_a_socket_stays(world: World) -> None:
    one = listener(LOOPBACK, 5432, POSTGRES)
    noted_by_kernel(world, one, POSTGRES, abi.Listener.V6ONLY)
    world.look(one, by=policy())
    (row,) = rows(world)
    flags = abi.Listener.V6ONLY | abi.Listener.OWNER
    assert (row.socket, row.flags, row.process.exe) == (0xFFFF888000000000, flags, 7)


def test_the_kernel_is_told_who_is_a_stranger_and_who_is_none_any_more(world: World) -> None:
    one = listener(LOOPBACK, 5432, NETCAT)
    noted_by_kernel(world, one, NETCAT)
    world.look(one, by=policy())
    assert [row.stranger_to for row in rows(world)] == [numbered(DB).target(DB)]
    handed_on = dataclasses.replace(one, owners=(NETCAT, POSTGRES))
    world.look(handed_on, by=policy())
    assert [(row.stranger_to, row.process.pid) for row in rows(world)] == [(0, POSTGRES.pid)]
    world.look(one, by=policy())
    allowed = dataclasses.replace(policy(), services={})
    world.look(one, by=allowed)
    assert rows(world) == [], "no service declares the port any more"


def test_a_stranger_beside_an_owner_is_none(world: World) -> None:
    stranger, owner = listener(LOOPBACK, 5432, NETCAT, cookie=1), listener(LOOPBACK, 5432, POSTGRES, cookie=2)
    noted_by_kernel(world, stranger, NETCAT)
    world.look(stranger, owner, by=policy())
    assert [row.stranger_to for row in rows(world)] == [0]
    world.look(stranger, by=policy())
    assert [row.stranger_to for row in rows(world)] == [numbered(DB).target(DB)]


def test_who_has_listened_since_the_listing_is_left_to_the_next_look(world: World) -> None:
    late = listener(LOOPBACK, 5432, NETCAT, cookie=9)
    noted_by_kernel(world, late, NETCAT)
    (place,) = world.owners.rows
    row = abi.ListenerOwner.from_buffer_copy(world.owners.rows[place])
    row.since_ns = 2**63
    world.owners.rows[place] = bytes(row)
    world.look(listener(LOOPBACK, 5432, POSTGRES, cookie=1), by=policy())
    assert [row.cookie for row in rows(world)] == [9]
    world.look(by=policy())
    assert [row.cookie for row in rows(world)] == [9], "nor forgotten"


INIT = Process(
    pid=1, start_boot_ns=0, comm="systemd", exe="/usr/lib/systemd/systemd", uid=0, cgroup="/init.scope"
)


@pytest.fixture
def with_systemd(tmp_path: Path) -> World:
    """A host whose pid 1 is that of the initial pid namespace."""
    (tmp_path / "self/ns").mkdir(parents=True)
    (tmp_path / "self/ns/pid").symlink_to("/proc/self/ns/pid")
    return World(tmp_path)


SEES_INITIAL_PIDS = os.stat("/proc/self/ns/pid").st_ino == 0xEFFFFFFC
INITIAL = pytest.mark.skipif(not SEES_INITIAL_PIDS, reason="these tests run in a pid namespace")


@INITIAL
def test_what_pid_1_alone_holds_and_listens_on_is_no_mismatch(with_systemd: World) -> None:
    world, one = with_systemd, listener(LOOPBACK, 5432, INIT)
    noted_by_kernel(world, one, INIT, abi.Listener.ACTIVATED)
    assert world.look(one, by=policy()) == []
    assert [row.stranger_to for row in rows(world)] == [0]


@INITIAL
@pytest.mark.parametrize(("uid", "found"), [(0, []), (1002, [(5432, ListenerState.OWNER_MISMATCH)])])
def test_of_a_socket_from_before_nobody_knows_who_called_listen(
    with_systemd: World, uid: int, found: list[tuple[int, ListenerState]]
) -> None:
    assert (
        with_systemd.look(dataclasses.replace(listener(LOOPBACK, 5432, INIT), uid=uid), by=policy()) == found
    )


@INITIAL
def test_what_was_handed_to_pid_1_to_keep_is_a_strangers(with_systemd: World) -> None:
    """FDSTORE=1 in sd_notify(3): a service may do that."""
    one = dataclasses.replace(listener(LOOPBACK, 5432, INIT), uid=0)
    noted_by_kernel(with_systemd, one, NETCAT)
    assert with_systemd.look(one, by=policy()) == [(5432, ListenerState.OWNER_MISMATCH)]


@pytest.mark.parametrize(
    ("served_by", "found"), [(POSTGRES, []), (NETCAT, [(5432, ListenerState.OWNER_MISMATCH)])]
)
def test_once_another_process_holds_it_that_one_is_judged(
    world: World, served_by: Process, found: list[tuple[int, ListenerState]]
) -> None:
    """Whether or not the owner is root, which pid 1 is, too."""
    one = listener(LOOPBACK, 5432, INIT, served_by)
    noted_by_kernel(world, one, INIT, abi.Listener.ACTIVATED)
    owned_by_root = parse_policy(
        POLICY.replace("UNDECLARED", "report").replace("unit: postgresql.service", "uid: 0")
    )
    assert world.look(one, by=policy()) == found
    another = listener(LOOPBACK, 5432, INIT, dataclasses.replace(served_by, uid=26), cookie=9)
    assert world.look(another, by=owned_by_root) == [(5432, ListenerState.OWNER_MISMATCH)], "it is not root"


def test_pid_1_of_a_container_is_a_process_like_any(world: World) -> None:
    one = listener(LOOPBACK, 5432, INIT)
    noted_by_kernel(world, one, INIT, abi.Listener.ACTIVATED)
    assert world.look(one, by=policy()) == [(5432, ListenerState.OWNER_MISMATCH)]


def test_only_a_services_port_can_have_a_stranger(world: World) -> None:
    one = listener(LOOPBACK, 20_000, NETCAT)
    noted_by_kernel(world, one, NETCAT)
    key = place_of(one)
    row = abi.ListenerOwner.from_buffer_copy(world.owners.rows[key])
    row.stranger_to = 1
    world.owners.put(key, bytes(row))
    world.look(one, by=policy())
    assert not world.listening.judged[0].listener.strange
