"""When a license holds, what changes next, and which notices are due before that."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from agent.license.clock import Moment
from agent.license.report import State

DAY = timedelta(days=1)


class Edge(StrEnum):
    """What a notice is about."""

    EXPIRY = "expiry"
    TERMINATION = "termination"
    GRACE = "grace"
    """Each day since the expiry, until the termination."""


@dataclass(frozen=True, slots=True)
class Change:
    """The next change of a license's state."""

    state: State
    at: datetime
    """By license time; a beginning, by the later of it and the wall clock."""


@dataclass(frozen=True, slots=True)
class Notice:
    """`days`: of the notice before the edge; in grace, days since the expiry."""

    edge: Edge
    at: datetime
    """The expiry or the termination; in grace, the expiry."""
    days: int

    def is_due_after(self, told: Notice | None, now: datetime) -> bool:
        """True unless this notice, or a nearer one about the same time, was told. What was told at a license
        time that was given up, and that `now` has not reached again, does not count."""
        if told is None or told.at != self.at:
            return True
        if self.edge is Edge.GRACE:
            return self.days != told.days
        return self.days < told.days or told.at - now > told.days * DAY


@dataclass(frozen=True, slots=True)
class Times:
    """When a license holds. None: always, and never an end."""

    starts_at: datetime | None = None
    expires_at: datetime | None = None
    terminates_at: datetime | None = None

    def state(self, moment: Moment) -> State:
        """The state by these times alone."""
        if self.terminates_at and moment.license >= self.terminates_at:
            return State.EXPIRED
        if self.starts_at and moment.later < self.starts_at:
            return State.NOT_YET_VALID
        if self.expires_at and moment.license >= self.expires_at:
            return State.GRACE
        return State.VALID

    def next(self, moment: Moment) -> Change | None:
        """None: nothing changes any more."""
        match self.state(moment):
            case State.NOT_YET_VALID:
                assert self.starts_at
                return Change(State.VALID, self.starts_at)
            case State.VALID if self.expires_at and self.expires_at != self.terminates_at:
                return Change(State.GRACE, self.expires_at)
            case State.VALID | State.GRACE if self.terminates_at:
                return Change(State.EXPIRED, self.terminates_at)
        return None

    def due(self, notice_days: Sequence[int], moment: Moment) -> Iterator[Notice]:
        """The nearest notice about each edge, if the license holds."""
        state, now = self.state(moment), moment.license
        if state is State.GRACE:
            assert self.expires_at
            yield Notice(Edge.GRACE, self.expires_at, (now - self.expires_at) // DAY)
        if state is State.VALID and self.expires_at:
            yield from _nearest(Edge.EXPIRY, self.expires_at, notice_days, now)
        if state in (State.VALID, State.GRACE) and self.terminates_at not in (None, self.expires_at):
            assert self.terminates_at
            yield from _nearest(Edge.TERMINATION, self.terminates_at, notice_days, now)

    def quiet_for(self, notice_days: Sequence[int], moment: Moment) -> timedelta:
        """How long `state` and `due` stay as they are, at most a day, if no clock jumps."""
        ahead = [self.starts_at - moment.later] if self.starts_at else []
        for edge in (self.expires_at, self.terminates_at):
            if edge:
                ahead += [edge - moment.license - days * DAY for days in (0, *notice_days)]
        if self.expires_at and self.state(moment) is State.GRACE:
            ahead.append(DAY - (moment.license - self.expires_at) % DAY)
        return min((DAY, *(one for one in ahead if one > timedelta())))


def _nearest(edge: Edge, at: datetime, notice_days: Sequence[int], now: datetime) -> Iterator[Notice]:
    days = min((days for days in notice_days if at - now <= days * DAY), default=None)
    if days is not None:
        yield Notice(edge, at, days)
