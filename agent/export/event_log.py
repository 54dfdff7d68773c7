"""The events of this run: written to the sink, and the newest kept for whoever asks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from itertools import takewhile
from typing import Any

from agent.export.events import Event
from agent.export.sink import Sink, open_sink
from agent.export.text import to_json


def _maker(event: Event) -> Hashable:
    """Who could make very many of its kind: a user; whoever is elsewhere; whoever opens flows."""
    if str(event.get("type")).startswith("flow_"):
        return "flows"
    if event.get("origin") == "remote":
        return "remote"
    maker = event.get("consumer") or event.get("owner") or {}
    return maker.get("uid")


class Newest:
    """The `most` lines that were written last; of whoever has most of them, the oldest gives way."""

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
        """Oldest first."""
        found: list[tuple[int, str]] = []
        for lines in self._lines.values():
            found += takewhile(lambda one: one[0] >= number, reversed(lines))
        return [line for _, line in sorted(found)]


class EventLog:
    """A line that the sink does not take is counted, by cause, and still kept here."""

    def __init__(
        self, sink: str | Sink, keep: int, around: Callable[[Event], Event] = lambda event: event
    ) -> None:
        """`sink` as events.sink of the configuration; `keep`: how many events stay in memory; `around`: what
        is written of an event, see envelope.py."""
        self._around = around
        self._sink = open_sink(sink) if isinstance(sink, str) else sink
        # as lines: a quarter of the memory of the values they stand for
        self._kept = Newest(keep)
        self._failed = 0
        self._stalled = 0
        self.cursor = 0
        """Sequence number of the next event."""

    def write(self, event: Event) -> None:
        line = to_json(self._around(event))
        self._kept.add(self.cursor, line, _maker(event))
        self.cursor += 1
        try:
            self._sink.write(line)
        except BlockingIOError:
            self._stalled += 1
        except OSError:
            self._failed += 1
            self._sink.reopen()

    def reopen(self) -> None:
        """After logrotate has renamed the file."""
        self._sink.reopen()

    def losses(self) -> dict[str, int]:
        """Lines that were not written. event_sink: disk full, file or pipe gone; event_sink_stalled: the
        reader did not keep up."""
        return {"event_sink": self._failed, "event_sink_stalled": self._stalled}

    def recent(self, limit: int) -> Sequence[dict[str, Any]]:
        """The newest `limit`, oldest first."""
        lines = self._kept.since(0)
        return [json.loads(line) for line in lines[max(len(lines) - limit, 0) :]]

    def since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """(new cursor, events from `cursor` on that are still kept)."""
        return self.cursor, [json.loads(line) for line in self._kept.since(cursor)]
