"""Medians with their spread, and how one condition compares with another measured beside it."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and quartiles of `samples` values."""

    median: float
    q1: float
    q3: float
    samples: int

    def to_json(self, digits: int = 4) -> dict[str, float]:
        return {name: round(value, digits) for name, value in asdict(self).items()}


def spread(values: Sequence[float]) -> Spread:
    """Raises statistics.StatisticsError on no values."""
    median = statistics.median(values)
    if len(values) < 2:
        return Spread(median, median, median, len(values))
    q1, _, q3 = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, q1, q3, len(values))


def paired_ratio(on: Sequence[float], off: Sequence[float]) -> Spread:
    """on ÷ off round by round: what drifts from round to round falls out of the quotient."""
    return spread([a / b for a, b in zip(on, off, strict=True)])
