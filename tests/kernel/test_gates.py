"""Gates are loaded without being attached, and attached and let go of without being loaded again."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Iterator

import pytest

from agent.errors import PinError
from agent.kernel.attach.gates import BIND, CONNECT, CgroupGate, SocketGate
from agent.kernel.loading import supervisor
from agent.model import Namespace
from agent.system.netns import own_cookie
from tests.fixtures import cgroups, namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.namespaces import Namespace as Place
from tests.kernel.loading import Loading, loading_in

GATES = {*CONNECT, *BIND, "refuse_lookup"}


@pytest.fixture
def loading(lab: Lab) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield one


def in_kernel_terms(place: Place) -> Namespace:
    with namespaces.entered(place):
        cookie = own_cookie()
    return Namespace(cookie=cookie, inode=os.stat(place.path).st_ino, path=str(place.path), addresses=())


def test_they_are_loaded_once_and_nothing_is_attached(loading: Loading) -> None:
    loading.load()
    links = loading.links()
    supervisor.load_gates(loading.settings)
    assert set(loading.pins.programs()) >= GATES
    assert loading.links() == links
    made = loading.pins.program("refuse_lookup").stat().st_ino
    supervisor.load_gates(loading.settings)
    assert loading.pins.program("refuse_lookup").stat().st_ino == made


def test_without_the_observers_they_are_refused(loading: Loading) -> None:
    loading.settings.paths.run.mkdir(parents=True)
    with pytest.raises(PinError, match="not pinned; run `licet load`"):
        supervisor.load_gates(loading.settings)
    assert loading.left() == []


@pytest.mark.parametrize("programs", [CONNECT, BIND], ids=["connect", "bind"])
def test_a_cgroup_gate_is_attached_once_and_let_go_of(loading: Loading, programs: dict[str, int]) -> None:
    loading.load()
    supervisor.load_gates(loading.settings)
    gate = CgroupGate(loading.pins, loading.cgroup, programs)
    assert not gate.attached()
    gate.attach()
    assert gate.attached()
    links = loading.links()
    gate.attach()
    assert loading.links() == links
    gate.detach()
    assert not gate.attached()
    assert not set(loading.pins.links()) & GATES
    gate.detach()


def test_the_socket_gate_follows_the_namespaces(loading: Loading) -> None:
    loading.load()
    supervisor.load_gates(loading.settings)
    lab = loading.lab
    host, container = in_kernel_terms(lab.host), in_kernel_terms(lab.container)
    gate = SocketGate(loading.pins)
    gate.sync([host])
    assert gate.attached() == [host.cookie]
    links = loading.links()
    gate.sync([host, container, dataclasses.replace(container, cookie=1, path="/nowhere")])
    assert set(gate.attached()) == {host.cookie, container.cookie}
    assert links.items() <= loading.links().items(), "what is there stays as it is"
    gate.sync([container])
    assert gate.attached() == [container.cookie]
    again = SocketGate(loading.pins)
    again.sync([container])
    assert again.attached() == [container.cookie]
    again.detach()
    assert gate.attached() == []


def test_gates_of_another_cgroup_are_let_go_of_when_the_programs_move(loading: Loading) -> None:
    loading.load()
    supervisor.load_gates(loading.settings)
    CgroupGate(loading.pins, loading.cgroup, CONNECT).attach()
    other = cgroups.directory(loading.lab.cgroup("other"))
    supervisor.load(loading.settings, other)
    assert not set(loading.pins.links()) & GATES
