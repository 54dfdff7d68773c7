"""What the verifier has to go through: it ends at a million instructions, and each start waits for it."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest

from agent.kernel.loading import supervisor
from agent.system import libbpf
from tests.fixtures.lab import Lab
from tests.kernel.loading import Loading, loading_in

LIMIT = 1_000_000
"""The kernel's, of one program."""
ROOM = 0.7
"""What is left is for the next compiler, which may unroll what this one does not."""
CONNECT = {"0.26.0": 250_000}
"""observe_connect, by bcc: that of Debian 12 has LLVM 14."""
CONNECT_ELSEWHERE = 450_000


@pytest.fixture
def loading(lab: Lab) -> Iterator[Loading]:
    with loading_in(lab) as one:
        yield one


def verified(loading: Loading) -> dict[str, int]:
    """Instructions by program; from Linux 5.16 on the kernel tells."""
    found = {}
    for name in loading.pins.programs():
        fd = libbpf.open_pin(loading.pins.program(name))
        found[name] = int(libbpf.program_info(fd).verified_insns)
        os.close(fd)
    return found


def is_before(release: str, *version: int) -> bool:
    return tuple(int(part) for part in release.split("-")[0].split(".")[:2]) < version


def test_each_program_stays_far_from_the_verifiers_limit(loading: Loading) -> None:
    manifest = loading.load()
    supervisor.load_gates(loading.settings)
    supervisor.load_datagrams(loading.settings)
    found = verified(loading)
    print(*sorted(found.items(), key=lambda one: -one[1]), sep="\n")
    assert {"observe_connect4", "observe_connect6", "refuse_bind4", "refuse_packet"} <= found.keys()
    assert {name: count for name, count in found.items() if not 0 < count <= LIMIT * ROOM} == {}
    old = is_before(os.uname().release, 6, 12)
    most = CONNECT_ELSEWHERE if old else CONNECT.get(manifest.bcc, CONNECT_ELSEWHERE)
    assert max(found["observe_connect4"], found["observe_connect6"]) <= most
