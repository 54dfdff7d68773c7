"""Room in the kernel's table of sets, as licenses take it one after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime

from agent.model import HostFacts
from agent.policy.tables.clauses import Clause, policy_clauses
from agent.policy.tables.ids import Ids
from agent.policy.tables.named_sets import NamedSets, named_sets
from agent.policy.tables.target_rows import target_rows
from agent.policy.values import License, Policy


class SetRoom:
    """Compiles only what a license can add sets to. Most licenses add no clause: what the clauses name is
    then made once."""

    def __init__(self, policy: Policy, facts: HostFacts, now: datetime) -> None:
        self._policy = policy
        self._facts = facts
        self._now = now
        self._named: tuple[list[Clause], NamedSets] | None = None

    def misfit(self, licenses: Sequence[License]) -> str:
        """Why the table has no room for the policy with these licenses; "" if it has."""
        policy = replace(self._policy, licenses=tuple(licenses))
        named = self._of(policy_clauses(policy)).copy()
        target_rows(policy, self._facts, Ids(), self._now, named)
        return next((reason for reason, _ in named.sets.too_many()), "")

    def _of(self, clauses: list[Clause]) -> NamedSets:
        if self._named is None or self._named[0] != clauses:
            self._named = clauses, named_sets(clauses, self._facts)
        return self._named[1]
