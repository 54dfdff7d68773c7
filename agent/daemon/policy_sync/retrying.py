"""Repeats a reload that failed because of the host, or that could not verify signatures. No file event
reports when such a cause has ended."""

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


class Verified(Protocol):
    @property
    def no_verdict(self) -> str: ...


class ReloadRetry:
    """Decides when a reload is tried again. `keeper` and `documents` have the result of the last one. Not
    thread-safe."""

    def __init__(
        self, keeper: Reloaded, documents: Verified, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._keeper = keeper
        self._documents = documents
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
        if not self._has_failed:
            return ""
        why = self._keeper.last_error
        return f"the policy's files are not in force; the agent tries again on its own: {why}"

    @property
    def _has_failed(self) -> bool:
        return bool(self._keeper.last_error) and self._keeper.failed_at_host

    @property
    def _is_wanted(self) -> bool:
        return self._has_failed or bool(self._documents.no_verdict)
