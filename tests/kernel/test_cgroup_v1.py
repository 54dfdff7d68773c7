"""Cgroups of version 1 are made and removed beside those of cgroup2, with numbers of their own."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from agent import abi
from agent.kernel.attach.gates import RMDIR
from agent.kernel.loading.supervisor import load_gates
from agent.kernel.tables.ring import decode
from agent.model import HostFacts
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import MEMBER_CONTAINER, Dimension
from agent.system import libbpf
from tests.fixtures import cgroups
from tests.fixtures.names import new_name
from tests.kernel.decision_world import World

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(
        "\tcgroup\n" not in Path("/proc/filesystems").read_text(), reason="this kernel has no cgroup v1"
    ),
]
TOP = f"docker-{'ab' * 32}.scope"
POLICY = """
version: 1
services: {db: {product: red, ports: [{port: 5432, class: internal}]}}
principals: {web: [{container: web}]}
licenses: [{id: l, product: red, entitlements: [{id: e, principals: [web]}]}]
"""
MAKE_AND_REMOVE = """
mount -t cgroup -o none,name="$1" none "$2"
mkdir "$2/$3"
stat -c %i "$2/$3"
read -r _ || true
rmdir "$2/$3"
umount "$2"
"""


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    """Told of cgroups that are made, and of containers' that are removed."""
    with World() as made:
        load_gates(made.settings)
        facts = HostFacts(host_netns=made.host_netns, addresses=(), hash_seed=made.seed)
        made.install(compile_policy(parse_policy(POLICY), facts, Ids()).tables)
        with libbpf.opened_pin(made.pins.program(RMDIR)) as program:
            link = libbpf.raw_tracepoint_open("cgroup_rmdir", program)
        try:
            yield made
        finally:
            os.close(link)


def test_one_of_cgroup2_is_told_when_it_is_made_and_removed(world: World) -> None:
    path = f"{world.lab.scope}/{TOP}"
    world.drain()
    number = world.make(path)
    assert (abi.EventType.CGROUP, number) in told(world)
    note_container(world, number)
    cgroups.directory(path).rmdir()
    assert (abi.EventType.GONE, number) in told(world)


def test_one_of_version_1_is_not_though_its_number_is_a_containers(world: World) -> None:
    world.drain()
    with of_version_1(world) as number:
        assert member(world, number) is None
        assert (abi.EventType.CGROUP, number) not in told(world)
        note_container(world, number)
    assert (abi.EventType.GONE, number) not in told(world)


@contextmanager
def of_version_1(world: World) -> Iterator[int]:
    """The number of a cgroup in a hierarchy of the test's own, which is gone afterwards."""
    place = world.lab.directory / "v1"
    place.mkdir()
    command = ["unshare", "-m", "sh", "-ec", MAKE_AND_REMOVE, "sh", new_name(), str(place), TOP]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        yield int(process.stdout.readline())
        process.stdin.write("\n")
        process.stdin.close()
        assert process.wait(timeout=10) == 0


def told(world: World) -> list[tuple[abi.EventType, int]]:
    return [
        (abi.EventType(event.header.type), event.id)
        for event in decode(world.drain())
        if isinstance(event, abi.CgroupEvent | abi.GoneEvent)
    ]


def note_container(world: World, number: int) -> None:
    """As a container that only root could have made."""
    world.members.put(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, number), abi.U32.pack(MEMBER_CONTAINER))


def member(world: World, number: int) -> bytes | None:
    return world.members.get(abi.MEMBER_KEY.pack(Dimension.CGROUP, 0, number))
