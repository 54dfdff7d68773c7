"""Watches periodic work for passes that run far too long."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LATE_S = 60.0
"""Duration from which a pass is late. A pass takes some seconds on a host with very many sockets."""


class Passes:
    """The passes of one thread."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way: dict[object, tuple[str, float]] = {}

    @contextmanager
    def passing(self, name: str) -> Iterator[None]:
        """Record a pass while the block runs. Several passes of one name may run at once."""
        key = object()
        self._under_way[key] = name, self._clock()
        try:
            yield
        finally:
            del self._under_way[key]

    @property
    def problem(self) -> str:
        """The late passes in a sentence; "" if none is late."""
        now_s = self._clock()
        late = {name for name, began_s in self._under_way.values() if now_s - began_s > LATE_S}
        if not late:
            return ""
        return (
            f"{', '.join(sorted(late))}: under way for more than {LATE_S:.0f} s, and new events are not seen "
            "meanwhile; the kernel goes on judging. A file system or a process that it waits for may hang: "
            "look for state D in `ps -eo pid,state,wchan:30,args`, then restart licet"
        )
