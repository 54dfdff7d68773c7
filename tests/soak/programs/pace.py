"""How a program keeps its rate, says what it has seen, and learns that it is over."""

from __future__ import annotations

import errno
import json
import select
import sys
import time
from collections.abc import Iterator
from typing import Any


def ticks(rate: float) -> Iterator[int]:
    """0, 1, 2, … at most `rate` a second, until stdin ends. What could not be made in time is left out."""
    due_s, number = time.monotonic(), 0
    while not over(due_s - time.monotonic()):
        yield number
        number += 1
        due_s = max(due_s + 1 / rate, time.monotonic() - 1)


def over(within_s: float) -> bool:
    """Waits so long for the end of stdin."""
    readable, _, _ = select.select([sys.stdin], [], [], max(within_s, 0))
    return bool(readable)


def say(**what: Any) -> None:
    """One line, at once."""
    print(json.dumps(what), flush=True)


def name_of(error: OSError) -> str:
    if isinstance(error, TimeoutError):
        return "silence"
    return errno.errorcode.get(error.errno or 0, repr(error))
