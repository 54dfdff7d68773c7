"""What a soak has found, in the terms of its criterion."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from tests.fixtures.metrics_text import Samples
from tests.soak.normal import Key

ANSWERS_WITHIN_S, SCRAPED_WITHIN_S = 1.0, 10.0
"""Of health and control, and of /metrics, as Prometheus waits."""
GROWS_KB = 20 * 1000
WARM_S = 60.0
"""From then on memory is compared."""
INEXACT = ("counts_full", "tuples", "datagrams")
"""Losses that cost exactness of licet_connections_total (docs/metrics.md)."""
UNTOLD = ("ring_full", "uses_full", "event_sink", "event_sink_stalled")
"""Losses for which attempts may be told by no event."""


@dataclass(frozen=True, slots=True)
class Finding:
    """`details`: lines that say what is wrong, or was measured."""

    what: str
    is_right: bool
    measured: str
    details: tuple[str, ...] = ()


def counted(samples: Samples) -> Counter[Key]:
    """licet_connections_total by service, origin and decision, without zeros."""
    found: Counter[Key] = Counter()
    for (name, labels), value in samples.items():
        if name == "licet_connections_total" and value:
            of = dict(labels)
            found[of["service"], of["origin"], of["decision"]] += int(value)
    return found


def losses(samples: Samples) -> dict[str, int]:
    return {
        dict(labels)["cause"]: int(value)
        for (name, labels), value in samples.items()
        if name == "licet_events_lost_total"
    }


def compared(what: str, made: Mapping[Key, int], now: Mapping[Key, int], services: Iterable[str]) -> Finding:
    """Exactly."""
    keys = sorted({key for key in (*made, *now) if key[0] in set(services)})
    wrong = [key for key in keys if made.get(key, 0) != now.get(key, 0)]
    details = tuple(f"{'/'.join(key)}: made {made.get(key, 0)}, counted {now.get(key, 0)}" for key in wrong)
    return Finding(
        what, not wrong, f"{sum(made.get(key, 0) for key in keys)} in {len(keys)} counters", details
    )


def arrived(what: str, made: int, now: int) -> Finding:
    """A packet can be lost on its way here, but none counts twice."""
    return Finding(what, 0.99 * made <= now <= made, f"{made} sent, {now} counted")


def answers(seconds: list[dict[str, Any]]) -> tuple[list[Finding], dict[str, Any]]:
    """Of each thing that was asked; `seconds` as probe.py says them."""
    found, numbers = [], {}
    for name in sorted({name for second in seconds for name in second["asked"]}):
        within_s = SCRAPED_WITHIN_S if name == "metrics" else ANSWERS_WITHIN_S
        asked = [(second, *second["asked"][name]) for second in seconds if name in second["asked"]]
        taken = sorted(one for _, one, _ in asked)
        failed = [(second, one, status) for second, one, status in asked if status != 200]
        slow = [
            (second, one, status)
            for second, one, status in asked
            if one - second["late_s"] > within_s or status != 200
        ]
        stalled = sum(one > within_s for one in taken) - sum(one > within_s for _, one, _ in slow)
        numbers[name] = {
            "asked": len(taken),
            "p50_s": percentile(taken, 50),
            "p99_s": percentile(taken, 99),
            "worst_s": taken[-1],
            "failed": len(failed),
            "late": len(slow),
            "late_by_a_stall_of_the_machine": stalled,
        }
        said = f"{len(taken)} asked: p50 {percentile(taken, 50) * 1000:.0f} ms, p99 "
        said += f"{percentile(taken, 99) * 1000:.0f} ms, worst {taken[-1] * 1000:.0f} ms"
        if stalled:
            said += f"; {stalled} late by a stall of the machine"
        details = tuple(
            f"second {second['at_s'] - seconds[0]['at_s']:.0f}: {one:.2f} s, status {status}; the prober was "
            f"late by {second['late_s']:.2f} s, the agent waited {second['waited_s']:.2f} s for a CPU"
            for second, one, status in slow
        )
        found.append(Finding(f"{name} answers in {within_s:.0f} s", not slow, said, details))
    return found, numbers


def memory(seconds: list[dict[str, Any]]) -> tuple[Finding, dict[str, Any]]:
    began_s = seconds[0]["at_s"]
    warm_s = min(WARM_S, (seconds[-1]["at_s"] - began_s) / 2)
    warm = [second["rss_kb"] for second in seconds if second["at_s"] - began_s <= warm_s]
    start, most, end = warm[-1], max(second["rss_kb"] for second in seconds), seconds[-1]["rss_kb"]
    numbers = {
        "start_kb": start,
        "most_in_the_first_minute_kb": max(warm),
        "most_kb": most,
        "end_kb": end,
        "each_minute_kb": [second["rss_kb"] for second in seconds[::60]],
    }
    said = f"after {warm_s:.0f} s {start / 1000:.1f} MB (most until then {max(warm) / 1000:.1f}), most "
    said += f"{most / 1000:.1f} MB, end {end / 1000:.1f} MB"
    return Finding("memory within 20 MB of its start", end - start <= GROWS_KB, said), numbers


def processor(seconds: list[dict[str, Any]]) -> dict[str, float]:
    first, last = seconds[0], seconds[-1]
    lasted_s = max(last["at_s"] - first["at_s"], 1)
    return {
        "agent_percent": round(100 * (last["cpu_s"] - first["cpu_s"]) / lasted_s, 1),
        "prober_late_worst_s": max(second["late_s"] for second in seconds),
        "prober_late_p99_s": percentile(sorted(second["late_s"] for second in seconds), 99),
        "agent_waited_for_a_cpu_worst_s": max(second["waited_s"] for second in seconds),
    }


def told_or_lost(counted: Mapping[Key, int], told: Mapping[Key, int], lost: Mapping[str, int]) -> Finding:
    """What was counted was told by events, or its loss was counted."""
    missing = {key: count - told.get(key, 0) for key, count in counted.items() if count != told.get(key, 0)}
    more = {key: -count for key, count in missing.items() if count < 0}
    less = sum(count for count in missing.values() if count > 0)
    room = sum(lost.get(cause, 0) for cause in UNTOLD)
    details = [f"{'/'.join(key)}: {count} told too often" for key, count in more.items()]
    details += [f"{'/'.join(key)}: {count} not told" for key, count in missing.items() if count > 0]
    said = f"{sum(counted.values())} counted, {sum(told.values())} told, {less} not told; losses {room}"
    return Finding("what is not told is a counted loss", not more and less <= room, said, tuple(details))


def exactness(lost: Mapping[str, int]) -> Finding:
    costly = {cause: lost.get(cause, 0) for cause in (*INEXACT, "no_row", "refusals") if lost.get(cause, 0)}
    rest = ", ".join(f"{cause} {count}" for cause, count in lost.items() if count) or "none"
    return Finding("no loss costs a count or a verdict", not costly, f"losses: {rest}")


def percentile(taken: list[float], percent: float) -> float:
    """Of sorted values."""
    return taken[min(len(taken) - 1, int(len(taken) * percent / 100))]
