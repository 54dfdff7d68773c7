"""Judges attempts that the kernel could not resolve again, by the facts now known of their consumers."""

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
        """The verdict, or None if the kernel resolved the attempt or the facts still do not suffice."""
        if use.verdict.reason is not Reason.UNRESOLVED or consumer is None:
            return None
        tables = self.keeper.tables
        if tables is None:
            return None
        who = local_consumer(consumer, consumer.netns, name_is_trusted=not consumer.exe_untrusted)
        return judged_as_known(tables, use.verdict.target, who, use.first_boot_ns, self.modes.enforces)
