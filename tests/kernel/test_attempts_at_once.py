"""Two processes that meet a decision first, at the same moment: each event is of one of them alone."""

from __future__ import annotations

import contextlib
import mmap
import os
import socket
import struct
from collections.abc import Iterator

import pytest

from agent import abi
from agent.kernel.tables.ring import decode
from agent.model import HostFacts
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from tests.fixtures import cgroups, namespaces
from tests.kernel.decision_world import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="nothing is at once on one processor"),
]
PORT, FIRST_UID, ROUNDS, PIDS_FROM = 5432, 21_000, 400, 1 << 24
POLICY = f"""
version: 1
services: {{db: {{product: red, ports: [{{port: {PORT}, class: internal}}]}}}}
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        facts = HostFacts(host_netns=made.host_netns, addresses=(), hash_seed=made.seed)
        made.install(compile_policy(parse_policy(POLICY), facts, Ids()).tables)
        yield made


def test_what_an_event_says_is_of_one_process(world: World) -> None:
    world.drain()
    with contextlib.closing(mmap.mmap(-1, mmap.PAGESIZE)) as arrived:
        cpus = sorted(os.sched_getaffinity(0))[:2]
        children = [start(world, place, cpu, arrived) for place, cpu in enumerate(cpus)]
        for child in children:
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    events = [event for event in decode(world.drain()) if isinstance(event, abi.UseEvent)]
    said = [(event.consumer.pid, event.consumer.uid, *event.gids[: event.groups]) for event in events]
    assert {uid for _, uid, _, _ in said} == set(range(FIRST_UID, FIRST_UID + ROUNDS))
    assert [one for one in said if one[2:] != (one[1], PIDS_FROM + one[0])] == []
    assert {pid for pid, *_ in said} == set(children), "both came first at some time"


def start(world: World, place: int, cpu: int, arrived: mmap.mmap) -> int:
    """The pid of a process that, in each round, connects with a uid that no other round has, in the same
    moment as the other one. Its groups say who it is and which round it is."""
    child = os.fork()
    if child:
        return child
    try:
        os.sched_setaffinity(0, {cpu})
        (cgroups.directory(world.lab.scope) / "cgroup.procs").write_text("0")
        namespaces.setns(os.open(world.lab.host.path, os.O_RDONLY | os.O_CLOEXEC))
        for turn in range(1, ROUNDS + 1):
            uid = FIRST_UID + turn - 1
            os.setgroups([uid, PIDS_FROM + os.getpid()])  # the kernel sorts them
            with socket.socket() as client:
                client.setblocking(False)
                os.seteuid(uid)
                meet(arrived, place, turn)
                client.connect_ex(("127.0.0.1", PORT))
                os.seteuid(0)
        os._exit(0)
    finally:
        os._exit(1)


def meet(arrived: mmap.mmap, place: int, turn: int) -> None:
    """Spins: whoever sleeps is woken too late."""
    struct.pack_into("I", arrived, 4 * place, turn)
    other = 4 * (1 - place)
    while struct.unpack_from("I", arrived, other)[0] < turn:
        pass
