"""A BPF map that is a dict, with the interface of agent.system.bpf_map.Map."""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Iterator

NOEXIST = 1
BATCH = 50


class MemoryMap:
    def __init__(self, name: str = "memory", *, max_entries: int = 1000, cpus: int = 1) -> None:
        self.name = name
        self.max_entries = max_entries
        self.cpus = cpus
        self.rows: dict[bytes, bytes] = {}

    def get(self, key: bytes) -> bytes | None:
        return self.rows.get(key)

    def put(self, key: bytes, value: bytes, flags: int = 0) -> None:
        if flags == NOEXIST and key in self.rows:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST))
        if key not in self.rows and len(self.rows) >= self.max_entries:
            raise OSError(errno.E2BIG, os.strerror(errno.E2BIG))
        self.rows[key] = value

    def remove(self, key: bytes) -> bool:
        return self.rows.pop(key, None) is not None

    def take(self, key: bytes) -> bytes | None:
        return self.rows.pop(key, None)

    def put_all(self, pairs: list[tuple[bytes, bytes]]) -> None:
        for key, value in pairs:
            self.put(key, value)

    def __iter__(self) -> Iterator[bytes]:
        return iter(list(self.rows))

    def batches(self) -> Iterator[tuple[bytes, bytes]]:
        rows = list(self.rows.items())
        for start in range(0, len(rows), BATCH):
            part = rows[start : start + BATCH]
            yield b"".join(key for key, _ in part), b"".join(value for _, value in part)

    def items(self) -> list[tuple[bytes, bytes]]:
        return list(self.rows.items())

    def first(self, count: int) -> list[bytes]:
        """Of an array: entries that were never written are zero, and as long as the others."""
        size = max(map(len, self.rows.values()), default=0)
        return [self.rows.get(number.to_bytes(4, sys.byteorder), bytes(size)) for number in range(count)]
