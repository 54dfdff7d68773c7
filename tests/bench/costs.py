"""Kernel time by program, from the kernel's own run-time statistics."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.kernel.uapi import STATS_RUN_TIME
from agent.system import libbpf
from tests.bench.conditions import Condition, Traffic
from tests.bench.spread import spread

CONNECTIONS = 5_000


@dataclass(frozen=True, slots=True)
class Cost:
    runs: int
    run_ns: int


@contextmanager
def statistics_on() -> Iterator[None]:
    """While it is held: BPF_ENABLE_STATS (bpf(2)), which costs every run of every program some 30 ns."""
    fd = libbpf.enable_stats(STATS_RUN_TIME)
    try:
        yield
    finally:
        os.close(fd)


def cost_of(program_fd: int) -> Cost:
    info = libbpf.program_info(program_fd)
    return Cost(runs=info.run_cnt, run_ns=info.run_time_ns)


@dataclass(frozen=True, slots=True)
class Hooked:
    """A condition, and the programs that act on it: fds by name."""

    condition: Condition
    programs: Mapping[str, int]


def measure_costs(traffic: Traffic, hooked: Sequence[Hooked], *, rounds: int) -> dict[str, Any]:
    """By condition: ns for one connection (both ends on this host, one client), in all and by program."""
    samples: dict[str, list[dict[str, Cost]]] = {each.condition.name: [] for each in hooked}
    with statistics_on():
        for each in hooked:
            traffic.run(each.condition, CONNECTIONS // 4, 1)
        for _ in range(rounds):
            for each in hooked:
                before = {name: cost_of(fd) for name, fd in each.programs.items()}
                traffic.run(each.condition, CONNECTIONS, 1)
                samples[each.condition.name].append(
                    {name: _since(before[name], cost_of(fd)) for name, fd in each.programs.items()}
                )
    return {name: _summary(rounds_) for name, rounds_ in samples.items()}


def _since(before: Cost, after: Cost) -> Cost:
    return Cost(after.runs - before.runs, after.run_ns - before.run_ns)


def _summary(rounds: Sequence[Mapping[str, Cost]]) -> dict[str, Any]:
    totals = [sum(cost.run_ns for cost in round_.values()) / CONNECTIONS for round_ in rounds]
    programs = {}
    for name in rounds[0]:
        runs = sum(round_[name].runs for round_ in rounds)
        if not runs:
            continue
        programs[name] = {
            "runs_per_connection": round(runs / CONNECTIONS / len(rounds), 2),
            "ns_per_run": round(sum(round_[name].run_ns for round_ in rounds) / runs, 1),
        }
    return {"ns_per_connection": spread(totals).to_json(1), "programs": programs}
