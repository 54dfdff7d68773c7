"""Sockets of real namespaces: what sock_diag, /proc and the inventory make of them."""

from __future__ import annotations

import os
import signal
import socket
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import TypeVar

import pytest

from agent.kernel.tables.encode_rows import End
from agent.model import Listener, Protocol, show_address, to_address
from agent.observe.cgroup import find_mount
from agent.observe.connections import Connection
from agent.observe.inventory import Inventory
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.socket_holders import SocketGone, socket_fd
from agent.observe.sockets import CLOSE_WAIT, ESTABLISHED, FIN_WAIT2, SYN_SENT, SocketDiag, tcp_in_use
from agent.system.netns import in_each, run_in_namespace
from tests.fixtures import namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.waiting import wait_for

T = TypeVar("T")
SO_COOKIE = 57
IPPROTO_MPTCP = 262
IPV6_TRANSPARENT = 75
SOL_IPV6_V6ONLY = (socket.IPPROTO_IPV6, socket.IPV6_V6ONLY)


@pytest.fixture
def opened() -> Iterator[ExitStack]:
    with ExitStack() as stack:
        yield stack


@pytest.fixture
def inventory(lab: Lab) -> Inventory:
    reader = ProcReader(cgroup_mount=find_mount())
    return Inventory(reader, Namespaces(reader, [str(lab.host.path), str(lab.container.path)]))


def make(
    opened: ExitStack,
    namespace: namespaces.Namespace,
    family: int,
    kind: int = socket.SOCK_STREAM,
    protocol: int = 0,
) -> socket.socket:
    """A socket of this process in another namespace."""
    with namespaces.entered(namespace):
        return opened.enter_context(socket.socket(family, kind, protocol))


def listen(opened: ExitStack, namespace: namespaces.Namespace, address: str, port: int = 0) -> socket.socket:
    made = make(opened, namespace, socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    made.bind((address, port))
    made.listen(4096)
    return made


def connect(opened: ExitStack, namespace: namespaces.Namespace, address: str, port: int) -> socket.socket:
    made = make(opened, namespace, socket.AF_INET6 if ":" in address else socket.AF_INET)
    made.settimeout(10)
    made.connect((address, port))
    return made


def cookie(one: socket.socket | int) -> int:
    if isinstance(one, int):
        with socket.socket(fileno=os.dup(one)) as borrowed:
            return cookie(borrowed)
    return int(struct.unpack("=Q", one.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8))[0])


def port_of(one: socket.socket) -> int:
    return int(one.getsockname()[1])


def row(rows: list[Listener], one: socket.socket) -> Listener:
    (found,) = [row for row in rows if row.cookie == cookie(one)]
    return found


def in_host(lab: Lab, listing: Callable[[SocketDiag], T]) -> T:
    """Rows of sock_diag in the lab's host namespace, without anything of the inventory's."""
    (host,) = Namespaces(ProcReader(), [str(lab.host.path)]).all()
    with run_in_namespace(host, partial(SocketDiag, host.cookie)) as diag:
        return listing(diag)


@pytest.mark.parametrize(
    ("listens", "goes_to"),
    [("127.0.0.1", "127.0.0.1"), ("::1", "::1"), ("::", "::ffff:127.0.0.1"), ("0.0.0.0", "::ffff:127.0.0.1")],
)
def test_one_socket_is_asked_for_by_its_ends_and_its_cookie(
    lab: Lab, opened: ExitStack, listens: str, goes_to: str
) -> None:
    listener = listen(opened, lab.host, listens)
    client = connect(opened, lab.host, goes_to, port_of(listener))
    server = opened.enter_context(listener.accept()[0])

    def has(diag: SocketDiag, number: int, ends: tuple[End, End]) -> bool:
        return diag.has(number, *ends)

    def ask(number: int, *ends: End) -> bool:
        (found,) = in_each(
            Namespaces(ProcReader(), [str(lab.host.path)]).all(),
            lambda one: has(SocketDiag(one.cookie), number, (ends[0], ends[1])),
        )
        return found

    here, there = end_of(client.getsockname()), end_of(client.getpeername())
    numbers = cookie(client), cookie(server)
    assert ask(numbers[0], here, there)
    assert ask(numbers[1], there, here)
    assert not ask(numbers[1], here, there), "the socket with these ends is another one"
    assert not ask(numbers[0], here, (there[0], there[1] + 1))
    (elsewhere,) = in_each(
        Namespaces(ProcReader(), [str(lab.container.path)]).all(),
        lambda one: has(SocketDiag(one.cookie), numbers[0], (here, there)),
    )
    assert not elsewhere
    client.close()  # first: the rest of it stays in TIME_WAIT
    server.close()
    wait_for(lambda: not ask(numbers[0], here, there), "it is gone")
    assert not ask(numbers[1], there, here)


def end_of(name: tuple[str, int]) -> End:
    return to_address(name[0]), name[1]


def test_sockets_in_use_are_those_that_listen_or_have_a_peer(lab: Lab, opened: ExitStack) -> None:
    def in_use() -> int:
        (found,) = in_each(Namespaces(ProcReader(), [str(lab.host.path)]).all(), lambda _: tcp_in_use())
        return found

    assert in_use() == 0
    listeners = [listen(opened, lab.host, address) for address in ("127.0.0.1", "::1")]
    make(opened, lab.host, socket.AF_INET).bind(("127.0.0.1", 0))
    assert in_use() == 2
    connect(opened, lab.host, "127.0.0.1", port_of(listeners[0]))
    assert in_use() == 4, "also the end that nobody has accepted yet"
    listeners[1].close()
    assert in_use() == 3


def test_connections_that_outlive_their_listener_are_found(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    listener = listen(opened, lab.host, "127.0.0.1")
    port = port_of(listener)
    client = connect(opened, lab.host, "127.0.0.1", port)
    opened.enter_context(listener.accept()[0])
    listener.close()
    (found,) = inventory.connections([port])
    assert found.consumer
    assert found.consumer.cookie == cookie(client)


def test_a_listener_is_listed_as_what_it_is(lab: Lab, opened: ExitStack, inventory: Inventory) -> None:
    v4 = listen(opened, lab.host, "127.0.0.1")
    dual = listen(opened, lab.host, "::")
    only6 = make(opened, lab.host, socket.AF_INET6)
    only6.setsockopt(*SOL_IPV6_V6ONLY, 1)
    only6.bind(("::", 0))
    only6.listen()
    mapped = listen(opened, lab.host, "::ffff:10.77.1.1")

    rows = inventory.listeners()
    assert len(rows) == 4
    shown = {
        one: (show_address(found.address), found.port, found.family, found.v6only, found.wildcard)
        for one in (v4, dual, only6, mapped)
        for found in [row(rows, one)]
    }
    assert shown == {
        v4: ("127.0.0.1", port_of(v4), socket.AF_INET, False, False),
        dual: ("::", port_of(dual), socket.AF_INET6, False, True),
        only6: ("::", port_of(only6), socket.AF_INET6, True, True),
        mapped: ("10.77.1.1", port_of(mapped), socket.AF_INET6, False, False),
    }
    assert row(rows, v4).inode == os.fstat(v4.fileno()).st_ino
    assert [owner.pid for owner in row(rows, v4).owners] == [os.getpid()]


def test_a_bound_udp_socket_listens_until_it_is_connected(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    bound = make(opened, lab.host, socket.AF_INET6, socket.SOCK_DGRAM)
    bound.bind(("::1", 5353))
    unbound = make(opened, lab.host, socket.AF_INET, socket.SOCK_DGRAM)
    connected = make(opened, lab.host, socket.AF_INET, socket.SOCK_DGRAM)
    connected.connect(("127.0.0.1", 5353))

    (found,) = inventory.listeners()
    assert (found.protocol, found.cookie, found.port) == (Protocol.UDP, cookie(bound), 5353)
    (row,) = in_host(lab, lambda diag: diag.connections(protocols=[Protocol.UDP]))
    assert (row.cookie, row.remote_port) == (cookie(connected), 5353)
    assert unbound.fileno() >= 0


def test_sockets_that_share_a_port_are_listed_each(lab: Lab, opened: ExitStack, inventory: Inventory) -> None:
    first = listen(opened, lab.host, "0.0.0.0")
    second = listen(opened, lab.host, "0.0.0.0", port_of(first))
    assert {one.cookie for one in inventory.listeners()} == {cookie(first), cookie(second)}


def test_a_listener_is_read_again_only_where_something_of_it_changed(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    stays, changes = listen(opened, lab.host, "127.0.0.1", 5001), listen(opened, lab.host, "::1", 5002)
    udp = make(opened, lab.host, socket.AF_INET, socket.SOCK_DGRAM)
    udp.bind(("127.0.0.1", 5003))
    before = inventory.listeners()
    again = inventory.listeners()
    assert [one.port for one in before] == [5001, 5002, 5003]
    assert all(one is other for one, other in zip(before, again, strict=True))
    changes.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    now = inventory.listeners()
    assert [one.transparent for one in now] == [False, True, False]
    assert (now[0], now[2]) == (before[0], before[2])
    connect(opened, lab.host, "127.0.0.1", 5001)  # it waits to be accepted, which the kernel's row tells
    assert inventory.listeners() == now
    held = os.fork()
    if not held:
        signal.pause()
    try:
        assert len(row(wait_for(lambda: _of_two(inventory), "a child holds them, too"), stays).owners) == 2
    finally:
        os.kill(held, signal.SIGKILL)
        os.waitpid(held, 0)
    assert inventory.listeners() == now
    changes.close()
    replaced = listen(opened, lab.host, "::1", 5002)
    found = inventory.listeners()
    assert [one.port for one in found] == [5001, 5002, 5003]
    assert (row(found, replaced).transparent, row(found, stays)) == (False, before[0])


def _of_two(inventory: Inventory) -> list[Listener]:
    found = inventory.listeners()
    return found if all(len(one.owners) == 2 for one in found) else []


def test_a_prefork_servers_socket_has_all_its_workers_as_owners(lab: Lab, inventory: Inventory) -> None:
    server = lab.serve(lab.host, "0.0.0.0", 5432, workers=4, cgroup="postgresql.service")

    def all_workers() -> tuple[Listener, ...] | None:
        (found,) = inventory.listeners()
        return (found,) if len(found.owners) == 5 else None

    (found,) = wait_for(all_workers, "parent and four workers hold the socket")
    assert found.owners[0].pid == server.pid
    assert {owner.unit for owner in found.owners} == {"postgresql.service"}
    assert {owner.netns for owner in found.owners} == {found.netns}


def test_an_mptcp_listener_has_an_owner(lab: Lab, opened: ExitStack, inventory: Inventory) -> None:
    try:
        made = make(opened, lab.host, socket.AF_INET, socket.SOCK_STREAM, IPPROTO_MPTCP)
    except OSError as error:
        pytest.skip(f"no MPTCP here: {error}")
    made.bind(("127.0.0.1", 7777))
    made.listen()
    (found,) = inventory.listeners()
    assert (found.port, found.protocol) == (7777, Protocol.TCP)
    assert [owner.pid for owner in found.owners] == [os.getpid()]


def test_equal_loopback_listeners_of_two_namespaces_are_two(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    for namespace in (lab.host, lab.container):
        listen(opened, namespace, "127.0.0.1", 5432)
    found = inventory.listeners()
    assert [one.port for one in found] == [5432, 5432]
    assert len({one.netns for one in found}) == 2


def test_a_server_that_was_replaced_is_named_anew(lab: Lab, inventory: Inventory) -> None:
    for name in ("old", "new"):
        program = lab.executable(name)
        server = lab.serve(lab.host, "127.0.0.1", 5432, program=program)
        (found,) = inventory.listeners()
        assert [owner.exe for owner in found.owners] == [str(program)]
        server.terminate()
        server.wait(10)
        assert inventory.listeners() == []


HOLD_OPEN = """
import socket, sys
sockets = [socket.create_connection((sys.argv[1], int(sys.argv[2]))) for _ in range(int(sys.argv[3]))]
print("open", flush=True)
sys.stdin.read()
"""


def hold_open(lab: Lab, namespace: namespaces.Namespace, address: str, port: int, count: int = 1) -> int:
    """pid of a process that has `count` connections open."""
    argv = [sys.executable, "-c", HOLD_OPEN, address, str(port), str(count)]
    consumer = lab.run(namespace, argv, stdin=-1)
    assert consumer.stdout is not None
    assert consumer.stdout.readline() == "open\n"
    return consumer.pid


@pytest.mark.parametrize("bind", ["0.0.0.0", "::"])
@pytest.mark.parametrize("ends", ["one namespace", "two namespaces"])
def test_a_connection_from_before_is_one_with_both_processes(
    lab: Lab, inventory: Inventory, bind: str, ends: str
) -> None:
    server = lab.serve(lab.host, bind, 5432, workers=2)
    namespace = lab.host if ends == "one namespace" else lab.container
    consumer = hold_open(lab, namespace, lab.host.v4, 5432)

    def accepted() -> list[Connection] | None:
        found = inventory.connections([5432])
        return found if found and all(one.server_processes for one in found) else None

    (found,) = wait_for(accepted, "the connection is accepted")
    assert found.consumer is not None
    assert found.server is not None
    assert [process.pid for process in found.consumer_processes] == [consumer]
    (worker,) = found.server_processes
    assert worker.pid != server.pid
    assert found.listener is not None
    assert found.listener.owners[0].pid == server.pid
    assert found.server_endpoint == (to_address(lab.host.v4), 5432)
    assert found.consumer_endpoint == (found.server.remote, found.server.remote_port)
    assert (found.consumer.netns == found.server.netns) == (ends == "one namespace")


def test_a_remote_end_is_an_address(lab: Lab, inventory: Inventory) -> None:
    lab.serve(lab.host, "::", 5432)
    hold_open(lab, lab.remote, lab.host.v6, 5432)
    (found,) = inventory.connections([5432])
    assert found.consumer is None
    assert found.consumer_endpoint[0] == to_address(lab.remote.v6)


def test_a_connection_nobody_has_accepted_yet_has_a_listener_but_no_worker(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    server = listen(opened, lab.host, "127.0.0.1", 5432)
    connect(opened, lab.host, "127.0.0.1", 5432)
    (found,) = inventory.connections([5432])
    assert found.server is not None
    assert (found.server.inode, found.server_processes) == (0, ())
    assert found.listener is not None
    assert found.listener.cookie == cookie(server)
    assert found.listener.owners[0].pid == os.getpid()


def test_a_connection_to_another_port_is_not_listed(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    server = listen(opened, lab.host, "127.0.0.1", 5432)
    consumer = connect(opened, lab.host, "127.0.0.1", 5432)
    assert inventory.connections([5433, 443]) == []
    assert inventory.connections([port_of(consumer)]) == []
    assert server.fileno() >= 0


@pytest.mark.parametrize("left_out", ["consumer", "server", "both"])
def test_sockets_that_are_left_out_are_of_no_connection(
    lab: Lab, opened: ExitStack, inventory: Inventory, left_out: str
) -> None:
    server = listen(opened, lab.host, "127.0.0.1", 5432)
    consumer = cookie(connect(opened, lab.host, "127.0.0.1", 5432))
    accepted = cookie(opened.enter_context(server.accept()[0]))
    without = {"consumer": {consumer}, "server": {accepted}, "both": {consumer, accepted}}[left_out]
    found = inventory.connections([5432], without)
    ends = {end.cookie for one in found for end in (one.consumer, one.server) if end}
    assert ends == {consumer, accepted} - without


def test_a_connection_is_listed_until_it_is_closed_and_not_in_time_wait(lab: Lab, opened: ExitStack) -> None:
    server = listen(opened, lab.host, "127.0.0.1", 5432)
    consumer = connect(opened, lab.host, "127.0.0.1", 5432)
    accepted = opened.enter_context(server.accept()[0])

    def states() -> dict[int, int]:
        rows, cookies = in_host(lab, lambda diag: (diag.connections(), diag.cookies()))
        assert cookies == {one.cookie for one in rows}
        return {one.cookie: one.state for one in rows}

    ends = (cookie(consumer), cookie(accepted))
    assert states() == dict.fromkeys(ends, ESTABLISHED)
    consumer.shutdown(socket.SHUT_WR)
    wait_for(lambda: states() == dict(zip(ends, (FIN_WAIT2, CLOSE_WAIT), strict=True)), "half closed")
    consumer.close()  # the kernel keeps a remnant that still calls itself FIN_WAIT2
    wait_for(lambda: states() == {ends[1]: CLOSE_WAIT}, "the consumer's end is closed")
    accepted.close()
    wait_for(lambda: states() == {}, "only TIME_WAIT is left")


def test_a_connection_that_gets_no_answer_is_the_consumers(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    namespaces.ip(
        "-n",
        lab.host.name,
        "neighbour",
        "add",
        "10.77.1.99",
        "lladdr",
        "02:00:00:00:00:99",
        "dev",
        "to-container",
    )
    waiting = make(opened, lab.host, socket.AF_INET)
    waiting.setblocking(False)
    with pytest.raises(BlockingIOError):
        waiting.connect(("10.77.1.99", 5432))
    (found,) = inventory.connections([5432])
    assert found.server is None
    assert found.consumer is not None
    assert (found.consumer.state, found.consumer.cookie) == (SYN_SENT, cookie(waiting))
    assert found.consumer_processes[0].pid == os.getpid()


def test_thousands_of_connections_are_each_listed_once_with_their_process(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    server = listen(opened, lab.host, "127.0.0.1", 5432)
    pids = {hold_open(lab, lab.host, "127.0.0.1", 5432, 500) for _ in range(4)}
    accepted = [opened.enter_context(server.accept()[0]) for _ in range(2000)]

    found = inventory.connections([5432])
    assert {one.server.cookie for one in found if one.server} == {cookie(one) for one in accepted}
    assert len(found) == 2000
    assert all(one.consumer is not None for one in found)
    by_pid = [process.pid for one in found for process in one.consumer_processes]
    assert {pid: by_pid.count(pid) for pid in by_pid} == dict.fromkeys(pids, 500)


def test_another_processs_listener_can_be_duplicated(
    lab: Lab, opened: ExitStack, inventory: Inventory
) -> None:
    server = lab.serve(lab.host, "127.0.0.1", 5432)
    (found,) = inventory.listeners()
    copy = socket_fd(ProcReader(), server.pid, found.inode)
    opened.callback(os.close, copy)
    assert cookie(copy) == found.cookie
    assert not os.get_inheritable(copy)


def test_a_socket_that_is_gone_cannot_be_duplicated(lab: Lab, inventory: Inventory) -> None:
    server = lab.serve(lab.host, "127.0.0.1", 5432)
    (found,) = inventory.listeners()
    with pytest.raises(SocketGone, match="holds no socket"):
        socket_fd(ProcReader(), server.pid, found.inode + 1_000_000)
    server.kill()
    server.wait(10)
    with pytest.raises(SocketGone, match=f"process {server.pid} is gone"):
        socket_fd(ProcReader(), server.pid, found.inode)
