"""When a license holds, and which notice is due: the nearest, and for how long nothing changes."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Change, Edge, Notice, Times

DAY = timedelta(days=1)
START, EXPIRY, END = (datetime(2026, 1, 1, tzinfo=UTC) + n * DAY for n in (0, 365, 396))
YEAR = Times(START, EXPIRY, END)
NOTICES = (60, 30, 7, 1)


def by(license_: datetime, wall: datetime | None = None) -> Moment:
    return Moment(license_, wall or license_)


@pytest.mark.parametrize(
    ("now", "state", "change"),
    [
        (START - DAY, State.NOT_YET_VALID, Change(State.VALID, START)),
        (START, State.VALID, Change(State.GRACE, EXPIRY)),
        (EXPIRY, State.GRACE, Change(State.EXPIRED, END)),
        (END, State.EXPIRED, None),
    ],
)
def test_the_state_and_the_next_one(now: datetime, state: State, change: Change | None) -> None:
    assert (YEAR.state(by(now)), YEAR.next(by(now))) == (state, change)


def test_without_grace_it_ends_where_it_expires() -> None:
    assert Times(START, EXPIRY, EXPIRY).next(by(START)) == Change(State.EXPIRED, EXPIRY)
    assert Times(START).next(by(START)) is None
    assert Times(START, EXPIRY).next(by(EXPIRY)) is None


def test_a_start_goes_by_the_later_clock() -> None:
    assert YEAR.state(by(START - DAY, wall=START)) is State.VALID
    assert YEAR.state(by(START, wall=START - DAY)) is State.VALID
    assert YEAR.state(by(START, wall=END)) is State.VALID


@pytest.mark.parametrize(
    ("now", "due"),
    [
        (EXPIRY - 61 * DAY, []),
        (EXPIRY - 60 * DAY, [(Edge.EXPIRY, 60)]),
        (EXPIRY - 30 * DAY, [(Edge.EXPIRY, 30)]),
        (EXPIRY - 29 * DAY, [(Edge.EXPIRY, 30), (Edge.TERMINATION, 60)]),
        (EXPIRY - timedelta(seconds=1), [(Edge.EXPIRY, 1), (Edge.TERMINATION, 60)]),
        (EXPIRY, [(Edge.GRACE, 0), (Edge.TERMINATION, 60)]),
        (EXPIRY + 3 * DAY, [(Edge.GRACE, 3), (Edge.TERMINATION, 30)]),
        (END, []),
        (START - DAY, []),
    ],
)
def test_the_nearest_notice_is_due(now: datetime, due: list[tuple[Edge, int]]) -> None:
    assert [(one.edge, one.days) for one in YEAR.due(NOTICES, by(now))] == due


def test_a_license_without_grace_has_one_end() -> None:
    notices = list(Times(START, EXPIRY, EXPIRY).due(NOTICES, by(EXPIRY - DAY)))
    assert notices == [Notice(Edge.EXPIRY, EXPIRY, 1)]


def test_what_was_told_is_not_due_again() -> None:
    month, now = Notice(Edge.EXPIRY, EXPIRY, 30), EXPIRY - 30 * DAY
    assert Notice(Edge.EXPIRY, EXPIRY, 7).is_due_after(month, now)
    assert not month.is_due_after(month, now)
    assert not Notice(Edge.EXPIRY, EXPIRY, 60).is_due_after(month, now)
    assert Notice(Edge.EXPIRY, END, 60).is_due_after(month, now)
    assert month.is_due_after(None, now)
    assert Notice(Edge.GRACE, EXPIRY, 2).is_due_after(Notice(Edge.GRACE, EXPIRY, 1), EXPIRY + 2 * DAY)
    assert not Notice(Edge.GRACE, EXPIRY, 1).is_due_after(Notice(Edge.GRACE, EXPIRY, 1), EXPIRY + DAY)


def test_what_was_told_at_a_time_that_was_given_up_is_due_again() -> None:
    week = Notice(Edge.EXPIRY, EXPIRY, 7)
    assert Notice(Edge.EXPIRY, EXPIRY, 30).is_due_after(week, EXPIRY - 20 * DAY)
    assert Notice(Edge.GRACE, EXPIRY, 1).is_due_after(Notice(Edge.GRACE, EXPIRY, 9), EXPIRY + DAY)


EVER = st.datetimes(max_value=datetime(9998, 1, 1), timezones=st.just(UTC))
MAYBE = st.none() | EVER
ANY = st.builds(Times, MAYBE, MAYBE, MAYBE)


@given(ANY, EVER, st.lists(st.integers(0, 3650), max_size=32), st.floats(0, 1, exclude_max=True))
def test_nothing_changes_while_it_is_said_to_be_quiet(
    times: Times, now: datetime, notice_days: list[int], part: float
) -> None:
    quiet = times.quiet_for(notice_days, by(now))
    assert timedelta() < quiet <= DAY
    later = by(now + min(quiet * part, quiet - timedelta(microseconds=1)))
    assert times.state(later) is times.state(by(now))
    assert list(times.due(notice_days, later)) == list(times.due(notice_days, by(now)))
