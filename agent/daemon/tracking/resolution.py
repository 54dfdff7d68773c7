"""Attempts that the kernel could not resolve, judged again by what is known of their consumers now."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.daemon.tracking.consumers import local_consumer
from agent.kernel.tables.rows import Use
from agent.model import Process, Reason, Verdict
from agent.policy.decision.known_later import judged_as_known


@dataclass(frozen=True, slots=True)
class Resolution:
    keeper: PolicyKeeper
    modes: ModesInForce

    def of(self, use: Use, consumer: Process | None) -> Verdict | None:
        """None: it was resolved, or still nobody knows."""
        if use.verdict.reason is not Reason.UNRESOLVED or consumer is None:
            return None
        tables = self.keeper.tables
        if tables is None:
            return None
        who = local_consumer(consumer, consumer.netns, name_is_trusted=not consumer.exe_untrusted)
        return judged_as_known(tables, use.verdict.target, who, use.first_boot_ns, self.modes.enforces)
