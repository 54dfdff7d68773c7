"""Connections a second under each condition, interleaved."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tests.bench.conditions import Condition, Traffic
from tests.bench.spread import paired_ratio, spread

CONNECTIONS = {1: 1_500, 32: 4_000}
"""For one measurement, by number of clients: about 0.15 s each."""


def measure_rates(
    traffic: Traffic, off: Condition, others: Sequence[Condition], *, rounds: int
) -> dict[str, Any]:
    """By number of clients: per_second of each condition, and each other ÷ off.

    Every round measures every condition once; the order rotates, so that none is always first."""
    return {
        f"clients_{clients}": _measure(traffic, off, others, clients, connections, rounds)
        for clients, connections in CONNECTIONS.items()
    }


def _measure(
    traffic: Traffic,
    off: Condition,
    others: Sequence[Condition],
    clients: int,
    connections: int,
    rounds: int,
) -> dict[str, Any]:
    conditions = [off, *others]
    rates: dict[str, list[float]] = {condition.name: [] for condition in conditions}
    for condition in conditions:
        traffic.run(condition, connections // 4, clients)  # the first ones warm caches; not counted
    for round_ in range(rounds):
        turn = round_ % len(conditions)
        for condition in conditions[turn:] + conditions[:turn]:
            rates[condition.name].append(traffic.run(condition, connections, clients)["per_second"])
    return {
        "per_second": {name: spread(values).to_json(1) for name, values in rates.items()},
        "over_off": {
            condition.name: paired_ratio(rates[condition.name], rates[off.name]).to_json()
            for condition in others
        },
    }


def worst_ratio(rates: dict[str, Any], name: str) -> float:
    """The lower of the medians at 1 and at 32 clients."""
    return min(float(each["over_off"][name]["median"]) for each in rates.values())
