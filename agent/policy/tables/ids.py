"""Stable numbers for targets and grants: the kernel counts by number, people read names.

A number is never given to another name, not even after a restart. So counters and flows of a target that left
the policy keep its name.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from agent.errors import LicetError
from agent.model import PortClass, Target
from agent.policy.tables.shape import MAX_TARGETS


@dataclass(slots=True)
class Ids:
    """Mutable on purpose: `compile_policy` adds names, and the daemon stores `to_json()` beside its state.
    Readers in other threads get copies, because a compilation may be adding names."""

    _targets: dict[Target, int] = field(default_factory=dict)
    _grants: dict[str, int] = field(default_factory=dict)

    @property
    def given(self) -> int:
        """How many numbers were given. They only grow, so of two records the one with more is the newer."""
        return len(self._targets) + len(self._grants)

    def target(self, target: Target) -> int:
        """The number of a target. Raises LicetError if the kernel's tables have no room for another one."""
        number = self._targets.get(target, 0)
        if not number and len(self._targets) >= MAX_TARGETS:
            raise LicetError(
                f"{target}: {MAX_TARGETS} targets have had a number on this host, and none is reused; "
                "to count anew: stop licet, `licet unload`, remove ids.json in paths.state, start it"
            )
        return number or self._targets.setdefault(target, len(self._targets) + 1)

    def grant(self, name: str) -> int:
        """`name` is license/entitlement/principal@service/class."""
        return self._grants.setdefault(name, len(self._grants) + 1)

    def target_named(self, number: int) -> Target | None:
        return self.targets.get(number)

    @property
    def targets(self) -> Mapping[int, Target]:
        return {number: target for target, number in self._targets.copy().items()}

    def to_json(self) -> dict[str, dict[str, int]]:
        return {
            "targets": {str(target): number for target, number in self._targets.copy().items()},
            "grants": dict(self._grants),
        }

    @classmethod
    def from_json(cls, stored: dict[str, dict[str, int]]) -> Ids:
        ids = cls(_grants=dict(stored.get("grants", {})))
        for text, number in stored.get("targets", {}).items():
            service, _, port_class = text.rpartition("/")
            ids._targets[Target(service, PortClass(port_class))] = number
        return ids
