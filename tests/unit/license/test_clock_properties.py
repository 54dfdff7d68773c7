"""What holds for license time, whatever becomes of the wall clock, the daemon and the host."""

from __future__ import annotations

from datetime import timedelta
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from agent.license.clock import HOUR_NS, LATEST_NS, PROOF_NS, TOLERANCE_NS, LicenseClock, Observed
from agent.license.clock_json import from_json, to_json
from tests.fixtures.license_clock import Host

HOUR_S = 3600
LOOK_S = 240
WRONG_S = st.one_of(st.just(0), st.integers(-400, 400), st.integers(-(10**9), 10**9))
EVENTS = st.lists(
    st.one_of(
        st.tuples(st.just("sets"), WRONG_S),
        st.tuples(st.just("runs"), st.integers(1, 2 * HOUR_S)),
        st.tuples(st.just("passes"), st.integers(1, 4 * HOUR_S)),
        st.tuples(st.just("restarts"), st.integers(1, 4 * HOUR_S)),
        st.tuples(st.just("reboots"), st.integers(1, 10**7)),
    ),
    max_size=12,
)


def happens(host: Host, kind: str, much: int) -> None:
    if kind == "sets":
        host.wrong_s = much
        host.look()
    elif kind == "reboots":
        host.reboots(timedelta(seconds=much), host.true + timedelta(seconds=much + host.wrong_s))
    else:
        getattr(host, kind)(much)


@given(WRONG_S, EVENTS)
def test_it_never_goes_back_but_to_the_firm_time_of_what_was_not_proven(
    wrong_s: int, events: list[tuple[str, int]]
) -> None:
    host = Host(wrong_s=wrong_s, look_s=LOOK_S)
    for kind, much in events:
        before, boot = host.clock, host.boot
        happens(host, kind, much)
        now = host.clock
        if host.boot != boot:
            assert now.moment(host.boot_ns).license >= before.moment(before.boot_ns).license or before.taken
            assert now.firm_offset_ns + host.boot_ns >= before.firm_offset_ns + before.boot_ns
            continue
        assert now.firm_offset_ns >= before.firm_offset_ns
        assert now.offset_ns >= before.offset_ns or before.taken
        assert now.offset_ns >= before.firm_offset_ns


@given(WRONG_S, EVENTS)
def test_it_is_stored_whole(wrong_s: int, events: list[tuple[str, int]]) -> None:
    host = Host(wrong_s=wrong_s, look_s=LOOK_S)
    for kind, much in events:
        happens(host, kind, much)
        assert from_json(to_json(host.clock)) == host.clock


@given(st.lists(st.tuples(WRONG_S, st.integers(0, HOUR_S - 60), st.booleans()), max_size=8))
def test_a_clock_wrong_for_less_than_an_hour_at_a_time_costs_five_minutes_an_hour_at_most(
    episodes: list[tuple[int, int, bool]],
) -> None:
    host = Host(look_s=LOOK_S)
    host.runs(2 * HOUR_S)
    began_s = host.up_s
    for wrong_s, length_s, restarts in episodes:
        host.wrong_s = wrong_s
        host.look()
        host.runs(length_s)
        if restarts:
            host.restarts()
        host.set(None)
    hours = (host.up_s - began_s) / HOUR_S
    assert 0 <= host.error_s <= 300 * (1 + hours)


@given(st.integers(1, 10**8), st.lists(st.tuples(WRONG_S, st.integers(0, HOUR_S - 60)), max_size=4))
def test_a_clock_wrong_at_a_boot_for_less_than_an_hour_costs_the_same(
    off_s: int, episodes: list[tuple[int, int]]
) -> None:
    host = Host(look_s=LOOK_S)
    host.runs(2 * HOUR_S)
    for index, (wrong_s, length_s) in enumerate(episodes):
        if index:
            host.wrong_s = wrong_s
            host.look()
        else:
            host.reboots(timedelta(seconds=off_s), host.true + timedelta(seconds=off_s + wrong_s))
        host.runs(length_s)
        host.set(None)
    assert host.error_s <= 300 * (1 + host.up_s / HOUR_S)


@given(WRONG_S, EVENTS)
def test_two_hours_of_a_right_clock_leave_nothing_behind(wrong_s: int, events: list[tuple[str, int]]) -> None:
    """It may be ahead for good, if a clock was wrong for an hour; it is not behind. Two, because an hour that
    began while the clock was still wrong is followed by its least lead only."""
    host = Host(wrong_s=wrong_s, look_s=LOOK_S)
    for kind, much in events:
        happens(host, kind, much)
    host.set(None)
    host.runs(2 * HOUR_S + 600)
    assert host.error_s >= 0
    assert host.clock.is_confirmed or host.error_s > 300


@given(st.lists(st.integers(0, 400), min_size=1, max_size=300))
def test_small_steps_of_any_hour_add_up_to_five_minutes(leads_s: list[int]) -> None:
    host = Host(look_s=LOOK_S)
    host.runs(2 * HOUR_S)
    offsets = []
    for lead_s in leads_s:
        host.passes(17)
        host.set(host.license_time + timedelta(seconds=lead_s))
        host.set(None)  # no lead is ever an hour old
        offsets.append((host.boot_ns, host.clock.offset_ns))
    for index, (at_ns, offset_ns) in enumerate(offsets):
        within = [offset for at, offset in offsets[: index + 1] if at > at_ns - HOUR_NS]
        assert offset_ns - within[0] <= TOLERANCE_NS
    assert all(b >= a for (_, a), (_, b) in pairwise(offsets))


@given(
    st.integers(0, LATEST_NS),
    st.integers(-LATEST_NS, LATEST_NS),
    st.integers(0, PROOF_NS),
    st.integers(-(1 << 70), 1 << 70),
    st.integers(0, 1 << 70),
)
def test_no_state_and_no_look_is_an_error(
    boot_ns: int, firm_ns: int, seen_ns: int, wall_ns: int, later_ns: int
) -> None:
    waiting = Observed(firm_ns + 1, seen_ns)
    clock = LicenseClock("b", boot_ns, 0, firm_ns, taken=waiting, ahead=waiting)
    looked = clock.looked(later_ns, wall_ns)
    assert looked.firm_offset_ns >= firm_ns
    assert isinstance(looked.problem, str)
    assert looked.moment(later_ns).license <= looked.moment(later_ns).later
