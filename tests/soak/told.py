"""The agent's events as they are written: whose first violation was told, and how many attempts."""

from __future__ import annotations

import json
import os
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from tests.soak.normal import Key
from tests.soak.world import FIRST_UID

LOOK_S = 0.1
ROTATED_AT = 64 << 20
"""Bytes: the file is renamed, as logrotate does, read to its end and removed."""


class Told(threading.Thread):
    """Follows a sink."""

    def __init__(self, path: Path) -> None:
        super().__init__(daemon=True)
        self._path = path
        self._over = threading.Event()
        self.firsts: dict[int, float] = {}
        """When a violation of this uid was read (time.monotonic()), of those that firsts.py makes."""
        self.attempts: Counter[Key] = Counter()
        self.events: Counter[str] = Counter()
        self.bytes = 0
        self.bad: list[str] = []

    def run(self) -> None:
        while not self._over.is_set():
            if self._path.exists():
                self._follow(self._path)
            else:
                time.sleep(LOOK_S)

    def end(self) -> None:
        self._over.set()
        self.join(30)

    def _follow(self, path: Path) -> None:
        """Until it was rotated away, or it is over."""
        with path.open("rb") as file:
            rest, renamed = b"", path.with_suffix(".1")
            while True:
                # in this order: nothing is written to this file once there is another one
                is_last = self._over.is_set() or (renamed.exists() and path.exists())
                while data := file.read(1 << 20):
                    self.bytes += len(data)
                    *lines, rest = (rest + data).split(b"\n")
                    for line in lines:
                        self._take(line)
                if is_last:
                    break
                if file.tell() > ROTATED_AT and not renamed.exists():
                    path.rename(renamed)
                time.sleep(LOOK_S)
            if renamed.exists() and os.fstat(file.fileno()).st_ino == renamed.stat().st_ino:
                renamed.unlink()

    def _take(self, line: bytes) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            self.bad.append(line[:200].decode(errors="replace"))
            return
        self.events[event["type"]] += 1
        if event["type"] not in ("violation", "use", "summary"):
            return
        many = event.get("counts", {}).get("attempts", 1)
        self.attempts[event["service"], event["origin"], event["decision"]] += many
        uid = _uid(event)
        if event["type"] == "violation" and uid >= FIRST_UID and event["service"] == "first":
            self.firsts.setdefault(uid, time.monotonic())


def _uid(event: dict[str, Any]) -> int:
    return int(event["consumer"].get("uid", -1))
