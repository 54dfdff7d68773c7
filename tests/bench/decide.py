"""decide() by itself: with 10 grants, and with 10,000."""

from __future__ import annotations

import ctypes as ct
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from agent import abi
from agent.kernel.compile.cache import compiled
from agent.kernel.compile.compiler import offset_flags, open_btf
from agent.kernel.compile.source import bpf_folder, joined
from agent.kernel.loading.program_set import Programs
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.kernel.uapi import ProgramType
from agent.model import HostFacts, to_address
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.terms.hashing import path_hash
from agent.system import bpf_map, libbpf
from tests.bench.policies import CANDIDATES, FIRST_PORT, policy_of_grants
from tests.bench.spread import spread
from tests.fixtures.leftovers import BPFFS, remove_pins
from tests.fixtures.names import new_name

REPEAT = 100_000
ROUNDS = 11
LICENSED = 1
NETNS = 1
UID = 1000
SEED = 0x5EED0000


class _Question(ct.Structure):
    """struct question of decide.c."""

    _fields_ = [
        ("who", abi.Identity),
        ("exe_path", ct.c_uint64),
        ("exe_directory", ct.c_uint64),
        ("exe_until_ns", ct.c_uint64),
        ("address", abi.RawAddress),
        ("port", ct.c_uint16),
        ("ports_more", ct.c_uint16),
        ("first_more", ct.c_uint16),
        ("pad", ct.c_uint16),
    ]


class Judge:
    """decide.c, loaded, with maps of its own."""

    def __init__(self, programs: Programs, pins: Pins) -> None:
        self._maps = PolicyMaps(pins)
        self._question = bpf_map.Map.from_fd(programs.map_fd("question"), "question")
        self._decide = programs.load("bench_decide", ProgramType.SCHED_CLS)
        self._empty = programs.load("bench_empty", ProgramType.SCHED_CLS)

    def install(self, grants: int, port: int, consumer: Path) -> None:
        policy = parse_policy(policy_of_grants(grants, port=port, consumer=consumer))
        address = to_address("10.77.1.1")
        facts = HostFacts(host_netns=NETNS, addresses=(address,), hash_seed=SEED)
        self._maps.put_in_force(self._maps.prepare(compile_policy(policy, facts, Ids()).tables))

    def ns(self, port: int, consumer: Path, *, more: int = 0) -> list[float]:
        """Nanoseconds for one decision, less those of an empty program, in each round. `more`: targets
        drawn at random. Raises RuntimeError if the answer is not `licensed`: then nothing was measured."""
        question = _Question(port=port, first_more=FIRST_PORT, ports_more=more)
        question.who.uid, question.who.netns = UID, NETNS
        question.exe_path = path_hash(str(consumer), SEED)
        question.exe_directory = path_hash(str(consumer.parent), SEED)
        question.address = abi.RawAddress.of(to_address("10.77.1.1"))
        self._question.put(bytes(4), bytes(question))
        rounds = []
        for _ in range(ROUNDS):
            _, empty_ns = libbpf.run_program(self._empty, REPEAT)
            answer, decide_ns = libbpf.run_program(self._decide, REPEAT)
            if answer != LICENSED:
                raise RuntimeError("the measured consumer was not licensed")
            rounds.append(float(decide_ns - empty_ns))
        return rounds


def measure_decide(port: int, consumer: Path) -> dict[str, Any]:
    """ns_decide_10, ns_decide_10000 (the same target, its eighth grant licenses) and
    ns_decide_10000_any (targets drawn at random, so caches are no help)."""
    found = {}
    with judging() as judge:
        for grants in (10, 10_000):
            judge.install(grants, port, consumer)
            found[f"ns_decide_{grants}"] = judge.ns(port, consumer)
        found["ns_decide_10000_any"] = judge.ns(port, consumer, more=10_000 // CANDIDATES - 1)
    return {name: {"ns": round(spread(ns).median, 1), **spread(ns).to_json(1)} for name, ns in found.items()}


@contextmanager
def judging() -> Iterator[Judge]:
    root = BPFFS / new_name()
    pins = Pins(root)
    pins.make_folders()
    try:
        source = joined(bpf_folder()) + "\n" + (Path(__file__).parent / "decide.c").read_text()
        programs = Programs(compiled(source, _flags(source), bpf_folder(), keep=None))
        for name in PINNED_MAPS:
            libbpf.pin(os.dup(programs.map_fd(name)), pins.map(name))
        yield Judge(programs, pins)
    finally:
        remove_pins(root)


def _flags(source: str) -> list[str]:
    btf = open_btf()
    try:
        return offset_flags(source, btf)
    finally:
        btf.close()
