"""What several threads count together, and what is told once to each of many."""

from __future__ import annotations

import contextlib
import threading
from collections import Counter
from typing import Generic, TypeVar

Key = TypeVar("Key")
Value = TypeVar("Value")


class Tally(Generic[Key]):
    """A counter that the loop and a thread add to: `+= 1` on a dict loses one where both do it at once."""

    def __init__(self) -> None:
        self._counts: Counter[Key] = Counter()
        self._lock = threading.Lock()

    def add(self, key: Key, count: int = 1) -> None:
        with self._lock:
            self._counts[key] += count

    def counts(self) -> dict[Key, int]:
        """As of now, all at one moment."""
        with self._lock:
            return dict(self._counts)


def keep_newest(known: dict[Key, Value], key: Key, value: Value, most: int) -> None:
    """Another thread may be adding."""
    known.pop(key, None)  # the newest stand last
    known[key] = value
    while len(known) > most:
        with contextlib.suppress(RuntimeError):  # it was added to meanwhile
            known.pop(next(iter(known)), None)


class Recent(Generic[Key]):
    """The `most` keys that were met last. Others choose the keys: whoever makes up new ones for ever is met
    as new for ever, and makes room by what he made up before; he takes no memory. Not thread-safe."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._keys: dict[Key, None] = {}

    def __len__(self) -> int:
        return len(self._keys)

    def is_new(self, key: Key) -> bool:
        """Meets a key: False where it is among the last."""
        new = key not in self._keys
        self._keys.pop(key, None)
        self._keys[key] = None  # the newest stand last
        if len(self._keys) > self._most:
            self._keys.pop(next(iter(self._keys)))
        return new
