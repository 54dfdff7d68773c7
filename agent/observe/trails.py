"""Records where exe selectors lead through symbolic links, and detects when that changes. The link of a
release (releases/current, alternatives, a profile of Nix) is switched while programs run."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

MOST_LISTED = 20_000
"""The most directories recorded for one glob."""
_REST = 100
"""After a check, the next waits 100 times as long as it took: at most 1 % of a core."""
_SWITCHES = 5
_PER_S = 60.0
"""The most switches of one selector that count within _PER_S seconds. A user who switches links more often
cannot cause more compilations."""


@dataclass(frozen=True, slots=True)
class Trail:
    """The file system state that determines where a selector leads."""

    ends: dict[str, str] = field(default_factory=dict)
    """By path: its real path, as realpath(3); "": it leads nowhere."""
    listed: dict[str, int] = field(default_factory=dict)
    """By directory that a glob listed: when its entries last changed, read before the listing."""

    def end(self, path: str) -> str:
        """The real path; "" if it leads nowhere."""
        self.ends[path] = _end(path)
        return self.ends[path]

    def lists(self, directory: str) -> None:
        """Record a directory. Call this before listing it."""
        if len(self.listed) < MOST_LISTED:
            self.listed.setdefault(directory, _changed_ns(directory))

    def holds(self) -> bool:
        return all(_end(path) == end for path, end in self.ends.items()) and all(
            _changed_ns(path) == at_ns for path, at_ns in self.listed.items()
        )


class TrailWatch:
    """Meant to be called every second. Not thread-safe."""

    def __init__(
        self,
        clock: Callable[[], float] = time.monotonic,
        spent: Callable[[], float] = time.thread_time,
    ) -> None:
        """`spent`: CPU time of this thread. CPU time is used so that a busy host does not make checks
        rare."""
        self._clock = clock
        self._spent = spent
        self._rests_until_s = 0.0
        self._switched: dict[str, deque[float]] = {}
        """By selector: the times when it was found to lead to another file."""

    def switched(self, trails: Mapping[str, Trail]) -> bool:
        """True if a selector leads to another file than before. `trails`: by selector."""
        began_s, spent_s = self._clock(), self._spent()
        if began_s < self._rests_until_s:
            return False
        found = [
            selector
            for selector, trail in trails.items()
            if self._may(selector, began_s) and not trail.holds()
        ]
        for selector in found:
            self._switched.setdefault(selector, deque(maxlen=_SWITCHES)).append(began_s)
        for selector in self._switched.keys() - trails.keys():
            del self._switched[selector]
        self._rests_until_s = self._clock() + (self._spent() - spent_s) * _REST
        return bool(found)

    def _may(self, selector: str, now_s: float) -> bool:
        before = self._switched.get(selector)
        return before is None or len(before) < _SWITCHES or now_s - before[0] > _PER_S


def _end(path: str) -> str:
    try:
        return os.path.realpath(path, strict=True)
    except OSError:
        return ""


def _changed_ns(directory: str) -> int:
    try:
        return os.stat(directory).st_mtime_ns
    except OSError:
        return 0
