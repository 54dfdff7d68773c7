"""Compiled policies, exempted from the garbage collector's passes."""

from __future__ import annotations

import contextlib
import ctypes
import gc
from collections.abc import Iterator

LOOKED_AT_EACH = 64


class Heap:
    """Shortens the pauses of the garbage collector, which stops every thread.

    A collection over a policy of 10,000 grants takes a tenth of a second. A program may need less from its
    start to its first connect(), and must be looked at before that.

    A compiled policy has no cycles, so it is freed when the next one replaces it. Cycles that other code made
    meanwhile are found by each 64th pass, a full one."""

    def __init__(self) -> None:
        self._times = 0

    @contextlib.contextmanager
    def filled(self) -> Iterator[None]:
        """Exempt the objects made inside from later passes, unless an exception leaves the block."""
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
            _give_back()


def _give_back() -> None:
    """Return free pages between blocks in use, too. What free() returns by itself is the end of the heap."""
    with contextlib.suppress(AttributeError):  # another C library has no malloc_trim
        ctypes.CDLL(None).malloc_trim(0)
