"""What the garbage collector need not look at again and again."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator

LOOKED_AT_EACH = 64


class Heap:
    """A collection stops every thread, over a policy of 10,000 grants for a tenth of a second. A program may
    need less from its start to its first connect(), and who it is has to be looked at before.

    What is compiled has no cycles: it goes when the next takes its place. Cycles that others made meanwhile
    are found when all is looked at, each 64th time."""

    def __init__(self) -> None:
        self._times = 0

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """What is made inside stays long, unless this is left by an exception."""
        if self._times % LOOKED_AT_EACH == 0:
            gc.unfreeze()
        self._times += 1
        gc.collect()
        gc.disable()
        try:
            yield
            gc.freeze()
        finally:
            gc.enable()
