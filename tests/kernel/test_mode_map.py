"""Overrides in a map of the kernel's, of the size that bpf/maps.h gives it."""

from __future__ import annotations

import ctypes as ct
from collections.abc import Iterator
from pathlib import Path

import pytest

from agent import abi
from agent.enforce.mode_overrides import Overrides
from agent.kernel.uapi import MapType
from agent.model import Mode, PortClass, Target
from agent.policy.tables.ids import Ids
from agent.system import bpf_map

pytestmark = pytest.mark.root
FIRST, LAST = Target("a", PortClass.PUBLIC), Target("z", PortClass.ADMIN)
IDS = {FIRST: 1, LAST: abi.MAX_TARGETS}


class InForce:
    ids = Ids(dict(IDS))

    def targets_in_force(self) -> list[Target]:
        return list(IDS)


@pytest.fixture
def modes() -> Iterator[bpf_map.Map]:
    made = bpf_map.Map.from_fd(
        bpf_map.map_create(MapType.ARRAY, "modes", 4, ct.sizeof(abi.RawMode), abi.MAX_TARGETS + 1), "modes"
    )
    yield made
    made.close()


def started(modes: bpf_map.Map, folder: Path) -> Overrides:
    overrides = Overrides(modes, InForce(), folder / "modes.json")
    overrides.restore()
    return overrides


def kernel(modes: bpf_map.Map) -> dict[int, int]:
    rows = ((abi.U32.unpack(key)[0], abi.RawMode.from_buffer_copy(value)) for key, value in modes.items())
    return {index: raw.override for index, raw in rows if raw.override}


def test_every_index_can_be_set_cleared_and_restored(modes: bpf_map.Map, tmp_path: Path) -> None:
    overrides = started(modes, tmp_path)
    for scope in (None, "a", "z/admin"):
        overrides.set(scope, Mode.ENFORCE, 600, uid=0, pid=1)
    assert kernel(modes) == {0: 2, 1: 2, abi.MAX_TARGETS: 2}
    overrides.reset("a")
    overrides.set(None, Mode.OBSERVE, None, uid=0, pid=1)
    assert kernel(modes) == {0: 1, abi.MAX_TARGETS: 2}
    modes.put(abi.U32.pack(77), bytes(abi.RawMode(until_ns=abi.NEVER_NS, override=2)))  # of an earlier run
    started(modes, tmp_path)
    assert kernel(modes) == {0: 1, abi.MAX_TARGETS: 2}
