"""Repeats a reload that failed because of the host. No file event reports when such a cause has ended."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Protocol

FIRST_S = 5.0
MOST_S = 300.0
"""Longest wait between two tries. Each failure doubles the wait."""


class Reloaded(Protocol):
    @property
    def last_error(self) -> str: ...

    @property
    def failed_at_host(self) -> bool: ...


class ReloadRetry:
    """Decides when a failed reload is tried again. `keeper` has the result of the last reload. Not
    thread-safe."""

    def __init__(self, keeper: Reloaded, clock: Callable[[], float] = time.monotonic) -> None:
        self._keeper = keeper
        self._clock = clock
        self._wait_s = 0.0
        self._at_s: float | None = None

    def reloaded(self) -> None:
        """Call this after each reload, whatever its cause and result."""
        if not self._is_wanted:
            self._wait_s, self._at_s = 0.0, None
            return
        self._wait_s = min(2 * self._wait_s or FIRST_S, MOST_S)
        self._at_s = self._clock() + self._wait_s

    def is_due(self) -> bool:
        """True once for each try."""
        if self._at_s is None or self._clock() < self._at_s:
            return False
        self._at_s = None
        return True

    @property
    def problem(self) -> str:
        if not self._is_wanted:
            return ""
        why = self._keeper.last_error
        return f"the policy's files are not in force; the agent tries again on its own: {why}"

    @property
    def _is_wanted(self) -> bool:
        return bool(self._keeper.last_error) and self._keeper.failed_at_host
