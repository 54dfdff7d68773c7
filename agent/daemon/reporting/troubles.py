"""Work that the running agent cannot do, for readiness, status, the metric and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.daemon.reporting.pins_watch import PinsWatch
from agent.export.agent_port import NOT_READY

log = logging.getLogger(__name__)


class Troubled(Protocol):
    """A part that knows when it cannot do its work."""

    @property
    def problem(self) -> str:
        """The problem now; "" if there is none."""


class Stored(Troubled, Protocol):
    """A part that writes to paths.state."""

    def retry(self) -> None:
        """Write the files that could not be written before."""


@dataclass(slots=True)
class Troubles:
    """Parts for each cause of TROUBLES. The first part with a problem is reported."""

    policy: Sequence[Troubled]
    policy_watch: Troubled
    state: Sequence[Stored]
    pins: PinsWatch
    clock: Troubled
    late: Troubled
    unanswered: Troubled
    licenses: Sequence[Stored] = ()
    policy_is_in_force: bool = False
    """Set once the first policy is in force. Until then, the agent is not ready."""
    _logged: dict[str, str] = field(default_factory=dict)
    _since_unix_s: dict[str, float] = field(default_factory=dict)
    """Time at which each present trouble was first seen, by cause."""

    def now(self) -> dict[str, str]:
        """The problem of each cause, "" if there is none."""
        found = {
            "policy": _first_problem(self.policy),
            "policy_watch": self.policy_watch.problem,
            "state": _first_problem(self.state),
            "pins": self.pins.problem,
            "clock": self.clock.problem,
            "late": self.late.problem,
            "unanswered": self.unanswered.problem,
            "licenses": _first_problem(self.licenses),
        }
        for cause, why in found.items():
            if not why:
                self._since_unix_s.pop(cause, None)
            elif cause not in self._since_unix_s:
                self._since_unix_s[cause] = time.time()
        return found

    def not_ready_since(self) -> float | None:
        """Time since which the agent is not ready, in seconds since the epoch: that of the oldest trouble.
        None if it is ready, or has never been."""
        if not self.policy_is_in_force:
            return None
        wrong = [cause for cause, why in self.now().items() if why and cause in NOT_READY]
        return min((self._since_unix_s[cause] for cause in wrong), default=None)

    def why_not_ready(self) -> str:
        """Reason why the agent is not ready; "" if it is."""
        if not self.policy_is_in_force:
            return "programs are attached, the policy is not in force yet"
        return "; ".join(why for cause, why in self.now().items() if why and cause in NOT_READY)

    def look(self) -> None:
        """Repair what the agent can repair, and check parts that do not report on their own. It may block."""
        for one in (*self.state, *self.licenses):
            one.retry()
        self.pins.look()

    def log_changes(self) -> None:
        """Log each trouble once when it begins, and once when it is over."""
        for cause, why in self.now().items():
            before = self._logged.get(cause, "")
            if why and why != before:
                log.error("%s", why)
            elif before and not why:
                log.warning("over: %s", before)
            self._logged[cause] = why


def _first_problem(parts: Sequence[Troubled]) -> str:
    return next((one.problem for one in parts if one.problem), "")
