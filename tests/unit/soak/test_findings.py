"""What a soak finds right and wrong, from numbers."""

from __future__ import annotations

from typing import Any

import pytest

from tests.soak import findings

DENIED = ("bait", "loopback", "denied")


def second(at_s: float, taken_s: float = 0.01, status: int = 200, **more: Any) -> dict[str, Any]:
    quiet = {"rss_kb": 70_000, "late_s": 0.0, "waited_s": 0.0, "cpu_s": 0.0}
    return {"at_s": at_s, "asked": {"healthz": (taken_s, status)}, **quiet, **more}


@pytest.mark.parametrize(
    ("made", "now", "is_right"),
    [({DENIED: 3}, {DENIED: 3}, True), ({DENIED: 3}, {DENIED: 4}, False), ({}, {DENIED: 1}, False)],
)
def test_counts_are_compared_exactly(made: Any, now: Any, is_right: bool) -> None:
    assert findings.compared("", made, now, ["bait"]).is_right is is_right
    assert findings.compared("", made, now, ["db"]).is_right is True


@pytest.mark.parametrize(
    ("sent", "counted", "is_right"), [(100, 99, True), (100, 98, False), (100, 101, False)]
)
def test_a_packet_may_be_lost_and_counts_once(sent: int, counted: int, is_right: bool) -> None:
    assert findings.arrived("", sent, counted).is_right is is_right


@pytest.mark.parametrize(
    ("taken_s", "status", "late_s", "is_right"),
    [(0.9, 200, 0.0, True), (1.1, 200, 0.0, False), (1.1, 200, 0.5, True), (0.01, 503, 0.0, False)],
)
def test_an_answer_is_late_unless_the_prober_was(
    taken_s: float, status: int, late_s: float, is_right: bool
) -> None:
    (found,), numbers = findings.answers([second(0), second(1, taken_s, status, late_s=late_s)])
    assert found.is_right is is_right
    assert numbers["healthz"]["late"] == (0 if is_right else 1)
    assert ("stall" in found.measured) is (is_right and taken_s > 1)


@pytest.mark.parametrize(("end_kb", "is_right"), [(95_000, True), (95_001, False)])
def test_memory_is_compared_with_what_it_was_after_a_minute(end_kb: int, is_right: bool) -> None:
    seconds = [second(0, rss_kb=50_000), second(60, rss_kb=75_000), second(120, rss_kb=end_kb)]
    found, numbers = findings.memory(seconds)
    assert found.is_right is is_right
    assert (numbers["start_kb"], numbers["end_kb"]) == (75_000, end_kb)


@pytest.mark.parametrize(
    ("told", "lost", "is_right"),
    [
        (5, {}, True),
        (4, {}, False),
        (4, {"uses_full": 1}, True),
        (3, {"ring_full": 1}, False),
        (4, {"path": 9}, False),
        (6, {"ring_full": 9}, False),
    ],
)
def test_what_is_not_told_has_to_be_a_counted_loss(told: int, lost: dict[str, int], is_right: bool) -> None:
    assert findings.told_or_lost({DENIED: 5}, {DENIED: told}, lost).is_right is is_right
