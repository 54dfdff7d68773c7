"""What an unresolved attempt would have met, had its consumer been known then."""

from __future__ import annotations

from collections.abc import Callable

from agent.model import LocalConsumer, Target, Verdict
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide
from agent.policy.tables.shape import Tables


def judged_as_known(
    tables: Tables,
    target: int,
    consumer: LocalConsumer,
    at_boot_ns: int,
    enforces: Callable[[Target], bool] | None = None,
) -> Verdict | None:
    """By the tables in force now. None: they have no such target any more."""
    row = tables.rows.get(target)
    return decide(tables, row, who_is(tables, consumer), at_boot_ns, enforces) if row else None
