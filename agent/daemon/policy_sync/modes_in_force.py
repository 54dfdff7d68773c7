"""Which mode is in force for each target: its override, the host's, or the policy's own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.enforce.modes import Effective, Overrides
from agent.enforce.override_file import Override
from agent.model import Mode, Target


@dataclass(frozen=True, slots=True)
class ModesInForce:
    keeper: PolicyKeeper
    overrides: Overrides

    def targets(self) -> Sequence[Target]:
        """Those of the policy in force."""
        policy = self.keeper.policy
        return policy.targets if policy else ()

    def of_policy(self, target: Target) -> Mode:
        """What holds without an override."""
        policy = self.keeper.policy
        return policy.mode_of(target) if policy else Mode.OBSERVE

    def effective(self, target: Target) -> Effective:
        return self.overrides.effective(target, self.of_policy(target))

    def enforces(self, target: Target) -> bool:
        return self.effective(target).mode is Mode.ENFORCE

    def enforcing(self) -> dict[Target, bool]:
        """By target of the policy."""
        return {target: self.enforces(target) for target in self.targets()}

    def needs_gates(self) -> bool:
        """Does a target enforce, or will one by itself when an override ends?"""
        return any(
            self.overrides.enforces_without_help(target, self.of_policy(target)) for target in self.targets()
        )

    def overridden(self) -> list[Override]:
        """Overrides in force, but those that wait for their target to return."""
        targets = set(self.targets())
        return [one for one in self.overrides.listed() if one.target is None or one.target in targets]
