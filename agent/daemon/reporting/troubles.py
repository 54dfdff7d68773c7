"""What the agent cannot do, though it runs: for readiness, status, the metric and the log."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.export.view import NOT_READY, TROUBLES

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Troubles:
    """`found` has a question for each cause of TROUBLES: what is wrong now; "" if nothing is."""

    found: Mapping[str, Callable[[], str]]
    _logged: dict[str, str] = field(default_factory=dict)
    _since_unix_s: dict[str, float] = field(default_factory=dict)
    """By cause of what is wrong: when it was met first."""

    def now(self) -> dict[str, str]:
        """By cause, all of them."""
        found = {cause: self.found[cause]() if cause in self.found else "" for cause in TROUBLES}
        for cause, why in found.items():
            if not why:
                self._since_unix_s.pop(cause, None)
            elif cause not in self._since_unix_s:
                self._since_unix_s[cause] = time.time()
        return found

    def not_ready_since(self) -> float | None:
        """Of the oldest of what keeps it from being ready, in seconds since the epoch; None: nothing does."""
        wrong = [cause for cause, why in self.now().items() if why and cause in NOT_READY]
        return min((self._since_unix_s[cause] for cause in wrong), default=None)

    def why_not_ready(self) -> str:
        """Empty: it is, as far as this goes."""
        return "; ".join(why for cause, why in self.now().items() if why and cause in NOT_READY)

    def log_changes(self) -> None:
        """Each once when it begins, and once when it is over."""
        for cause, why in self.now().items():
            before = self._logged.get(cause, "")
            if why and why != before:
                log.error("%s", why)
            elif before and not why:
                log.warning("over: %s", before)
            self._logged[cause] = why
