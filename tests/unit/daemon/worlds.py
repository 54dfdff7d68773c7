"""What the daemon's parts stand on in unit tests: maps in memory and processes made by hand."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.model import Origin, PortClass, Process, Target, Verdict, to_address
from agent.policy.tables.ids import Ids
from tests.unit.kernel.memory_map import MemoryMap

SEED = 0x5EED
DB = Target("db", PortClass.INTERNAL)
TARGETS = {1: DB, 2: Target("db", PortClass.ADMIN)}
LOOPBACK, HERE, ELSEWHERE = to_address("127.0.0.1"), to_address("10.0.0.1"), to_address("10.9.9.9")
SECOND_NS = 1_000_000_000


@dataclass
class MemoryCounters(Counters):
    """Counters over maps in memory; what was counted by hand is listed."""

    uses: Any = field(default_factory=lambda: MemoryMap("uses"))
    told: Any = field(default_factory=lambda: MemoryMap("told"))
    _use_counts: Any = field(default_factory=lambda: MemoryMap("use_counts", max_entries=8194))
    _noted_uses: Any = None
    flows: Any = field(default_factory=lambda: MemoryMap("flows"))
    tuples: Any = field(default_factory=lambda: MemoryMap("tuples"))
    found: list[tuple[Verdict, Origin]] = field(default_factory=list)
    _found_flows: Any = field(default_factory=lambda: MemoryMap("found_flows"))
    _flow_counts: Any = field(default_factory=lambda: MemoryMap("flow_counts"))

    def count_found(self, verdict: Verdict, origin: Origin) -> None:
        self.found.append((verdict, origin))


def new_names() -> Names:
    return Names(MemoryMap("names"), SEED, lambda pid: "")  # type: ignore[arg-type]


def numbered(*targets: Target) -> Ids:
    """Numbers from 1 on; without targets, those of TARGETS."""
    ids = Ids()
    for target in targets or TARGETS.values():
        ids.target(target)
    return ids


@dataclass
class GoneProcesses:
    """An Attributor where all processes are gone: only the kernel's word."""

    asked: list[tuple[Process, str, tuple[int, ...]]] = field(default_factory=list)

    def complete(
        self, seen: Process, *, comm: str = "", args: tuple[str, ...] = (), gids: Any = ()
    ) -> Process:
        self.asked.append((seen, comm, tuple(gids)))
        return replace(seen, comm=comm or seen.comm, args=args or seen.args)


@dataclass
class Modes:
    """ModesInForce, as far as one asks whether a target enforces."""

    enforcing: set[Target] = field(default_factory=set)

    def enforces(self, target: Target) -> bool:
        return target in self.enforcing


class Unresolvable:
    """A Resolution that knows no more than the kernel did."""

    def of(self, use: object, consumer: object) -> None:
        return None
