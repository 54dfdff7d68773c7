"""Validity of the licenses, and warnings of the policy in force."""

from __future__ import annotations

from collections.abc import Sequence

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.license_watch import license_time
from agent.policy.validity import Term, Validity, ended, terms_of


def terms_now(keeper: PolicyKeeper) -> list[tuple[Term, Validity]]:
    """The validity of each license as a whole."""
    policy, facts = keeper.policy, keeper.facts
    if policy is None or facts is None:
        return []
    now = license_time(facts)
    return [(term, term.at(now)) for term in terms_of(policy.licenses) if not term.entitlement]


def warnings_now(keeper: PolicyKeeper) -> Sequence[object]:
    policy, facts = keeper.policy, keeper.facts
    past = ended(policy.licenses, license_time(facts)) if policy and facts else ()
    return (*past, *keeper.warnings)
