"""Facts of the last hour that paths.state keeps for the next daemon: uses, and strangers on owned ports."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.tracking import use_records
from agent.daemon.tracking.past_uses import HOUR_NS
from agent.daemon.tracking.strangers import Strangers
from agent.daemon.tracking.usage import Usage
from agent.system.boottime import boot_ns


class UsesStore(Protocol):
    """The part of State that stores uses."""

    def kept_uses(self) -> Mapping[str, Any]:
        """Uses stored in this boot, or {} if none are stored."""

    def keep_uses(self, uses: Mapping[str, object]) -> None: ...


@dataclass(slots=True)
class LastHour:
    """Writes and reads uses and strangers of the last hour."""

    store_in: UsesStore
    usage: Usage
    keeper: PolicyKeeper
    strangers: Strangers
    since_ns: int = field(default_factory=boot_ns)
    """CLOCK_BOOTTIME from which on uses are known."""
    _storing: threading.Lock = field(default_factory=threading.Lock)

    def restore(self) -> None:
        """Read the stored facts. Call this once the first policy is in force. Facts that cannot be read are
        left out."""
        kept = self.store_in.kept_uses()
        self.usage.restore(use_records.readable(kept.get("gone")), use_records.readable(kept.get("rows")))
        self.strangers.restore(use_records.readable_strangers(kept.get("strangers")))
        since_ns, judged_ns = kept.get("since_ns"), kept.get("judged_ns")
        if type(since_ns) is int:
            self.since_ns = min(self.since_ns, since_ns)
        if type(judged_ns) is int and kept.get("policy") == self.keeper.sha256:
            self.keeper.judged_since_ns = min(self.keeper.judged_since_ns, judged_ns)

    def store(self) -> None:
        """Write the facts known now. A failure is reported as a trouble, and the write is tried again."""
        with self._storing:
            hour_ago_ns = boot_ns() - HOUR_NS
            gone, rows = self.usage.to_keep(hour_ago_ns)
            strangers = self.strangers.seen(hour_ago_ns)
            self.store_in.keep_uses(
                {
                    "since_ns": self.since_ns,
                    "policy": self.keeper.sha256,
                    "judged_ns": self.keeper.judged_since_ns,
                    "gone": [use_records.to_json(one) for one in gone],
                    "rows": [use_records.to_json(one) for one in rows],
                    "strangers": [use_records.stranger_to_json(one) for one in strangers],
                }
            )
