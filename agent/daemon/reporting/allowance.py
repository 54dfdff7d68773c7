"""How much may be told in a while."""

from __future__ import annotations

import time
from collections.abc import Callable


class Allowance:
    """Up to `most` at once, and `per_s` each second from then on."""

    def __init__(self, most: int, per_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._most = most
        self._per_s = per_s
        self._clock = clock
        self._left = float(most)
        self._since_s = clock()

    def take(self) -> bool:
        """Take one, if there is one."""
        now_s = self._clock()
        self._left = min(self._most, self._left + (now_s - self._since_s) * self._per_s)
        self._since_s = now_s
        if self._left < 1:
            return False
        self._left -= 1
        return True
