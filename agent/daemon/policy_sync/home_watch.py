"""Hearing of cgroups as they go, while a service is at containers: the next one may have its addresses."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.tracepoint import Tracepoint
from agent.kernel.attach.gates import RMDIR
from agent.kernel.pins import Pins


def removal_tracepoint(pins: Pins) -> Tracepoint:
    return Tracepoint(pins, "cgroup_rmdir", RMDIR, "addresses are taken away at the next look")


@dataclass(frozen=True, slots=True)
class HomeWatch:
    """Attached while a service is at containers."""

    tracepoint: Tracepoint
    keeper: PolicyKeeper

    def follow(self) -> None:
        """Attach or let go."""
        self.tracepoint.follow(self.has_homes())

    def has_homes(self) -> bool:
        """Is a service at containers?"""
        policy = self.keeper.policy
        return policy is not None and any(service.at_containers for service in policy.services.values())

    def is_home(self, number: int) -> bool:
        """Is this cgroup, by its id, that of a container that a service is at?"""
        facts = self.keeper.facts
        return facts is not None and any(facts.cgroups.get(path) == number for path in facts.container_netns)
