"""License time as it is stored: by this version, by 0.1.0, and by nobody."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.license.clock import RELEASED_NS, SECOND_NS, LicenseClock
from agent.license.clock_json import from_json, resumed, to_json
from tests.fixtures.license_clock import START, Host

BOOT_NS = 900 * SECOND_NS
NOW_S = int(START.timestamp())
YEAR_S = 365 * 86400


def stored() -> dict[str, Any]:
    """With something in every field."""
    host = Host(wrong_s=-100)
    host.runs(60)
    host.set(START)
    host.wrong_s = 10**6
    host.runs(90)
    found: dict[str, Any] = json.loads(json.dumps(to_json(host.clock)))
    assert all((found["taken"], found["ahead"], found["steps"]))
    return found


def at(wall_s: float, content: object, boot: str = "b") -> LicenseClock:
    return resumed(content, boot, BOOT_NS, int(wall_s * SECOND_NS))


def license_s(clock: LicenseClock) -> float:
    return (clock.offset_ns + BOOT_NS) / SECOND_NS


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("format", 1),
        ("format", "2"),
        ("boot", ""),
        ("boot", 5),
        ("boot", "x" * 65),
        ("boot_ns", -1),
        ("boot_ns", 1.5),
        ("boot_ns", True),
        ("boot_ns", 1 << 63),
        ("wall_offset_ns", None),
        ("firm_offset_ns", "0"),
        ("firm_offset_ns", -(1 << 63)),
        ("firm_offset_ns", 1 << 63),
        ("taken", 5),
        ("taken", {"offset_ns": 5}),
        ("taken", {"offset_ns": 0, "seen_ns": 0}),
        ("taken", {"offset_ns": 1 << 62, "seen_ns": -1}),
        ("ahead", []),
        ("ahead", {"offset_ns": 0, "seen_ns": 3600 * SECOND_NS}),
        ("steps", None),
        ("steps", [5]),
        ("steps", [[1, 2, 3]]),
        ("steps", [[1, 0]]),
        ("steps", [[1, 5], [1, 5]]),
        ("steps", [[0, 200 * SECOND_NS], [1, 200 * SECOND_NS]]),
        ("steps", [[10**9, 5]]),
        ("is_confirmed", 1),
        ("another", 1),
    ],
)
def test_what_no_licet_writes_is_refused_with_its_reason(key: str, value: object) -> None:
    assert from_json(stored())
    with pytest.raises(ValueError, match=key):
        from_json({**stored(), key: value})


@pytest.mark.parametrize("key", ["format", "boot", "taken", "steps", "is_confirmed"])
def test_a_missing_key_is_refused(key: str) -> None:
    content = stored()
    del content[key]
    with pytest.raises(ValueError, match=r"key"):
        at(NOW_S, content)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=9), inner, max_size=3),
    max_leaves=8,
)


@given(st.sampled_from(sorted(stored())), JSON, st.booleans())
def test_no_content_is_worse_than_a_refusal(key: str, value: object, alone: bool) -> None:
    content = value if alone else {**stored(), key: value}
    try:
        clock = at(NOW_S, content)
    except ValueError:
        return
    assert clock.looked(BOOT_NS + 1, NOW_S).firm_offset_ns >= -BOOT_NS


class TestOf010:
    def test_in_the_same_boot_the_deadlines_go_on(self) -> None:
        offset_ns = NOW_S * SECOND_NS - BOOT_NS
        content = {"seen_unix_s": NOW_S + 0.5, "boot": "b", "offset_ns": offset_ns}
        for wall_s in (0, NOW_S - YEAR_S, NOW_S, NOW_S + YEAR_S):
            clock = at(wall_s, content)
            assert (clock.offset_ns, clock.taken) == (offset_ns, None)

    @pytest.mark.parametrize("content", [{}, {"boot": "another", "offset_ns": 1 << 62}])
    def test_the_newest_time_is_where_another_boot_begins(self, content: dict[str, object]) -> None:
        content = {"seen_unix_s": NOW_S + 0.5, **content}
        assert license_s(at(0, content)) == NOW_S + 0.5, "a dead clock"
        assert license_s(at(NOW_S, content)) == NOW_S + 0.5
        assert license_s(at(NOW_S + 9000, content)) == NOW_S + 9000

    def test_a_newest_time_in_the_future_locks_nobody_out(self) -> None:
        """0.1.0 stored it without proof, and denied nothing for it."""
        content = {"seen_unix_s": NOW_S + 5 * YEAR_S}
        assert license_s(at(NOW_S, content)) == NOW_S
        dead = at(0, content)
        assert license_s(dead) == NOW_S + 5 * YEAR_S
        right = dead.looked(BOOT_NS + 60 * SECOND_NS, (NOW_S + 60) * SECOND_NS)
        assert license_s(right) == NOW_S

    @pytest.mark.parametrize(
        "seen", [None, "x", True, -1, float("nan"), float("inf"), 1e300, 10**40, [1], {"s": 1}]
    )
    def test_no_time_is_refused(self, seen: object) -> None:
        with pytest.raises(ValueError, match="seen_unix_s"):
            at(NOW_S, {"seen_unix_s": seen})
        with pytest.raises(ValueError, match="keys"):
            at(NOW_S, {})
        with pytest.raises(ValueError, match="offset_ns"):
            at(NOW_S, {"seen_unix_s": 5, "boot": "b", "offset_ns": [seen]})

    def test_a_time_before_the_release_is_none(self) -> None:
        assert license_s(at(0, {"seen_unix_s": 5})) == RELEASED_NS / SECOND_NS
        assert license_s(at(0, {"seen_unix_s": 5, "boot": "b", "offset_ns": 5})) == RELEASED_NS / SECOND_NS
