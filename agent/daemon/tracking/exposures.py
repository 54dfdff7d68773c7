"""Ports that were reached from outside their listening scope; the peer is the evidence."""

from __future__ import annotations

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking.consumers import network_of
from agent.daemon.tracking.tally import Recent, Tally
from agent.daemon.tracking.usage import Attempt
from agent.model import ListenerState, Origin, Target
from agent.policy.decision.listeners import in_scope

REMEMBERED = 4096
"""Limit for remembered (target, network) pairs. A pair counts as new once, as long as it is among the last
ones."""


class Exposures:
    def __init__(self, keeper: PolicyKeeper) -> None:
        self._keeper = keeper
        self._met: Recent[tuple[Target, bytes]] = Recent(REMEMBERED)
        """Target and network of the peer, as in the kernel's rows."""
        self.violations: Tally[tuple[str, str, str]] = Tally()
        """Counts by (service, port class, reason)."""

    def is_new(self, attempt: Attempt) -> bool:
        """True, and counted, if the attempt came from outside the scope and from a network not among the last
        ones.

        A refused peer has not reached the port, and a remote host can feign any number of peers."""
        use, policy = attempt.use, self._keeper.policy
        if use.origin is not Origin.REMOTE or policy is None or use.verdict.enforced:
            return False
        if in_scope(policy, attempt.target, use.source):
            return False
        if not self._met.is_new((attempt.target, network_of(use).packed)):
            return False
        target = attempt.target
        self.violations.add((target.service, target.port_class.value, ListenerState.EXPOSED.value))
        return True
