"""Reports licenses that begin, expire or end while the agent runs. The kernel judges by the same times on its
own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import datetime

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.license.clock import Moment, utc
from agent.model import HostFacts
from agent.policy.validity import Term, Validity, terms_of
from agent.policy.values import Policy
from agent.system.boottime import boot_ns


def license_time(facts: HostFacts) -> Moment:
    """The time now, by the clocks for which the tables in force were compiled."""
    now_ns = boot_ns()
    return Moment(utc(now_ns + facts.boot_offset_ns), utc(now_ns + facts.wall_offset_ns))


@dataclass(slots=True)
class LicenseWatch:
    """The validity of each license and entitlement, compared with the last look."""

    keeper: PolicyKeeper
    clock: Callable[[HostFacts], Moment] = license_time
    _known: dict[tuple[str, str], Validity] = field(default_factory=dict)
    _policy: Policy | None = None
    _unchanged: tuple[_Span, _Span] | None = None
    """Times of `Moment.later` and of `Moment.license` in which no validity changes."""

    def changes(self) -> list[tuple[Term, Validity]]:
        """Changes since the last call. A term seen for the first time is included if it has ended or is in
        grace."""
        policy, facts = self.keeper.policy, self.keeper.facts
        if policy is None or facts is None:
            return []
        now = self.clock(facts)
        if policy is self._policy and self._is_unchanged(now):
            return []
        terms = list(terms_of(policy.licenses))
        found = {(term.license, term.entitlement): (term, term.at(now)) for term in terms}
        changed = [one for key, one in found.items() if one[1] is not self._known.get(key, _unsaid(one[1]))]
        self._known = {key: validity for key, (_, validity) in found.items()}
        self._policy = policy
        self._unchanged = (
            _Span.around(now.later, (edge for term in terms for edge in term.beginnings)),
            _Span.around(now.license, (edge for term in terms for edge in term.endings)),
        )
        return changed

    def _is_unchanged(self, now: Moment) -> bool:
        if self._unchanged is None:
            return False
        beginnings, endings = self._unchanged
        return beginnings.holds(now.later) and endings.holds(now.license)


@dataclass(frozen=True, slots=True)
class _Span:
    since: datetime | None
    until: datetime | None

    @classmethod
    def around(cls, now: datetime, edges: Iterable[datetime]) -> _Span:
        """The time between the edges next to `now`."""
        found = list(edges)
        since = max((edge for edge in found if edge <= now), default=None)
        return cls(since, min((edge for edge in found if edge > now), default=None))

    def holds(self, now: datetime) -> bool:
        return (self.since is None or now >= self.since) and (self.until is None or now < self.until)


def _unsaid(validity: Validity) -> Validity | None:
    """The validity that a new term is assumed to have had, so that a valid or future term emits no event."""
    return validity if validity in (Validity.VALID, Validity.NOT_YET_VALID) else None
