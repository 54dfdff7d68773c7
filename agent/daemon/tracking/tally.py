"""Counters that several threads share, and bounded memories of keys."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Tally(Generic[Key]):
    """A counter for the loop and a thread: with `+= 1` on a dict, concurrent additions lose counts."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def add(self, key: Key, count: int = 1) -> None:
        with self._lock:
            self._counts[key] += count

    def counts(self) -> dict[Key, int]:
        """All counts, from one moment."""
        with self._lock:
            return dict(self._counts)


def keep_newest(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Store `value` as the newest and drop the oldest above `most`. Another thread may add at the same
    time."""
    known.pop(key, None)  # the newest stand last
    known[key] = value
    while len(known) > most:
        with contextlib.suppress(RuntimeError):  # another thread added a key meanwhile
            known.pop(next(iter(known)), None)


class Recent(Generic[Key]):
    """The `most` keys that were met last. Not thread-safe.

    Others choose the keys. A sender of ever new keys is met as new each time, but only evicts keys and takes
    no more memory."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: dict[Key, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def is_new(self, key: Key) -> bool:
        """Record a key. False if it is among the last ones."""
        new = key not in self._keys
        self._keys.pop(key, None)
        self._keys[key] = None  # the newest stand last
        if len(self._keys) > self._most:
            self._keys.pop(next(iter(self._keys)))
        return new
