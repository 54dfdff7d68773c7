"""Warns of containers without a known name while the policy has selectors by name, once for each."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from agent.observe.containers.registry import Roots

log = logging.getLogger(__name__)
SAID_AFTER_S = 10.0
"""Seconds before a warning. A runtime may write the name after it has made the cgroup."""


@dataclass(slots=True)
class Unnamed:
    roots: Roots
    clock: Callable[[], float] = time.monotonic
    _said: frozenset[str] = field(default_factory=frozenset)

    def follow(self, since_s: Mapping[str, float]) -> None:
        """`since_s`: when each container appeared, by the path of its cgroup."""
        late = frozenset(path for path, at_s in since_s.items() if self.clock() - at_s >= SAID_AFTER_S)
        fresh, self._said = sorted(late - self._said), late
        if not fresh:
            return
        more = f" and {len(fresh) - 1} more" if len(fresh) > 1 else ""
        folders = ", ".join(filter(None, self.roots.found().values())) or "none"
        log.warning(
            "container %s%s has no known name, so no selector by container name matches it; "
            "set `containers` in config.yaml to where its runtime stores its state (found: %s)",
            fresh[0],
            more,
            folders,
        )
