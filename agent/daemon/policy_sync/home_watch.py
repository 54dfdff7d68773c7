"""Reports of removed cgroups, needed while a service runs in containers: the next container may get the old
addresses."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.tracepoint import Tracepoint
from agent.kernel.attach.gates import RMDIR
from agent.kernel.pins import Pins


def removal_tracepoint(pins: Pins) -> Tracepoint:
    return Tracepoint(pins, "cgroup_rmdir", RMDIR, "old addresses are removed at the next look")


@dataclass(frozen=True, slots=True)
class HomeWatch:
    """Attached while a service runs in containers."""

    tracepoint: Tracepoint
    keeper: PolicyKeeper

    def follow(self) -> None:
        """Attach or detach."""
        self.tracepoint.follow(self.has_homes())

    def has_homes(self) -> bool:
        """True if a service runs in containers."""
        policy = self.keeper.policy
        return policy is not None and any(service.at_containers for service in policy.services.values())

    def is_home(self, number: int) -> bool:
        """True if the cgroup with this id belongs to a container that a service runs in."""
        facts = self.keeper.facts
        return facts is not None and any(facts.cgroups.get(path) == number for path in facts.container_netns)
