"""Reports licenses that begin, expire or end while the agent runs. The kernel judges by the same times on its
own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.model import HostFacts
from agent.policy.validity import Term, Validity, terms_of
from agent.policy.values import Policy
from agent.system.boottime import boot_ns


def license_time(facts: HostFacts) -> datetime:
    """The time now, by the clock for which the tables in force were compiled."""
    unix_ns = boot_ns() + facts.boot_offset_ns
    return datetime.fromtimestamp(unix_ns / 1e9, UTC)


@dataclass(slots=True)
class LicenseWatch:
    """The validity of each license and entitlement, compared with the last look."""

    keeper: PolicyKeeper
    clock: Callable[[HostFacts], datetime] = license_time
    _known: dict[tuple[str, str], Validity] = field(default_factory=dict)
    _policy: Policy | None = None
    _now: datetime | None = None
    _next: datetime | None = None
    """Next time at which a validity changes."""

    def changes(self) -> list[tuple[Term, Validity]]:
        """Changes since the last call. A term seen for the first time is included if it has ended or is in
        grace."""
        policy, facts = self.keeper.policy, self.keeper.facts
        if policy is None or facts is None:
            return []
        now, before = self.clock(facts), self._now
        self._now = now
        was_set_back = before is not None and now < before
        is_due = self._next is not None and now >= self._next
        if policy is self._policy and not is_due and not was_set_back:
            return []
        terms = list(terms_of(policy.licenses))
        found = {(term.license, term.entitlement): (term, term.at(now)) for term in terms}
        changed = [one for key, one in found.items() if one[1] is not self._known.get(key, _unsaid(one[1]))]
        self._known = {key: validity for key, (_, validity) in found.items()}
        self._policy = policy
        self._next = min((edge for term in terms for edge in term.edges() if edge > now), default=None)
        return changed


def _unsaid(validity: Validity) -> Validity | None:
    """The validity that a new term is assumed to have had, so that a valid or future term emits no event."""
    return validity if validity in (Validity.VALID, Validity.NOT_YET_VALID) else None
