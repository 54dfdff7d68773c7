"""Which mode is in force for each target: its override, the host's, or the policy's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.enforce.mode_overrides import Effective, Overrides
from agent.enforce.override_file import Override
from agent.model import Mode, Target


@dataclass(frozen=True, slots=True)
class ModesInForce:
    keeper: PolicyKeeper
    overrides: Overrides

    def targets(self) -> Sequence[Target]:
        """Targets of the policy in force."""
        policy = self.keeper.policy
        return policy.targets if policy else ()

    def of_policy(self, target: Target) -> Mode:
        """The mode that applies without an override."""
        policy = self.keeper.policy
        return policy.mode_of(target) if policy else Mode.OBSERVE

    def effective(self, target: Target) -> Effective:
        return self.overrides.effective(target, self.of_policy(target))

    def enforces(self, target: Target) -> bool:
        return self.effective(target).mode is Mode.ENFORCE

    def enforcing(self) -> dict[Target, bool]:
        """Whether each target of the policy enforces."""
        return {target: self.enforces(target) for target in self.targets()}

    def needs_gates(self) -> bool:
        """True if a target enforces now, or will once an override ends."""
        return any(
            self.overrides.enforces_without_help(target, self.of_policy(target)) for target in self.targets()
        )

    def overridden(self) -> list[Override]:
        """Overrides in force, except those of targets that the policy does not have now."""
        targets = set(self.targets())
        return [one for one in self.overrides.listed() if one.target is None or one.target in targets]
