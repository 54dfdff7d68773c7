"""The events of this run: written to the sink. The newest are also stored in memory for the API."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import takewhile
from typing import Any

from agent.export.events import Event
from agent.export.sanitize import to_json
from agent.export.sink import Sink, open_sink


def _maker(event: Event) -> Hashable:
    """The source of an event, for sharing memory fairly: a local user, all remote consumers, all flows, or
    all licenses. Whoever can change files of licenses pushes no other event out."""
    kind = str(event.get("type"))
    if kind.startswith("flow_"):
        return "flows"
    if kind == "license":
        return "licenses"
    if event.get("origin") == "remote":
        return "remote"
    maker = event.get("consumer") or event.get("owner") or {}
    return maker.get("uid")


class Newest:
    """Stores the newest lines, at most `most`. When full, it drops the oldest line of the source that has the
    most lines."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._lines: dict[Hashable, deque[tuple[int, str]]] = {}
        self._count = 0

    def add(self, number: int, line: str, maker: Hashable) -> None:
        own = self._lines.setdefault(maker, deque())
        own.append((number, line))
        self._count += 1
        if self._count > self._most:
            is_fair = len(own) * len(self._lines) <= self._count
            self._drop_oldest(max(self._lines, key=lambda one: len(self._lines[one])) if is_fair else maker)

    def _drop_oldest(self, maker: Hashable) -> None:
        self._lines[maker].popleft()
        self._count -= 1
        if not self._lines[maker]:
            del self._lines[maker]

    def since(self, number: int) -> list[str]:
        """The stored lines from this number on, oldest first."""
        found: list[tuple[int, str]] = []
        for lines in self._lines.values():
            found += takewhile(lambda one: one[0] >= number, reversed(lines))
        return [line for _, line in sorted(found)]


class EventLog:
    """Writes events to the sink and stores the newest. A line that the sink does not accept is counted by
    cause, and is still stored."""

    def __init__(
        self, sink: str | Sink, keep: int, around: Callable[[Event], Event] = lambda event: event
    ) -> None:
        """`sink`: as events.sink of the configuration. `keep`: how many events to store in memory. `around`:
        adds the common fields to an event, see envelope.py."""
        self._around = around
        self._sink = open_sink(sink) if isinstance(sink, str) else sink
        # as JSON lines: they take a quarter of the memory of the parsed values
        self._newest = Newest(keep)
        self._failed = 0
        self._stalled = 0
        self.cursor = 0
        """Sequence number of the next event."""

    def write(self, event: Event) -> None:
        line = to_json(self._around(event))
        self._newest.add(self.cursor, line, _maker(event))
        self.cursor += 1
        try:
            self._sink.write(line)
        except BlockingIOError:
            self._stalled += 1
        except OSError:
            self._failed += 1
            self._sink.reopen()

    def reopen(self) -> None:
        """Reopen the sink, after logrotate has renamed the file."""
        self._sink.reopen()

    def losses(self) -> dict[str, int]:
        """Lines that were not written, by cause. event_sink: disk full, or file or pipe gone.
        event_sink_stalled: the reader did not keep up."""
        return {"event_sink": self._failed, "event_sink_stalled": self._stalled}

    def recent(self, limit: int) -> Sequence[dict[str, Any]]:
        """The newest `limit` events, oldest first."""
        lines = self._newest.since(0)
        return [json.loads(line) for line in lines[max(len(lines) - limit, 0) :]]

    def since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """(new cursor, events from `cursor` on that are still stored)."""
        return self.cursor, [json.loads(line) for line in self._newest.since(cursor)]
