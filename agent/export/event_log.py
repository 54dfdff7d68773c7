"""The events of this run: written to the sink, and the newest kept for whoever asks."""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Sequence
from itertools import islice
from typing import Any

from agent.export.sink import Sink, open_sink
from agent.export.text import to_json


class EventLog:
    """A line that the sink does not take is counted, by cause, and still kept here."""

    def __init__(self, sink: str | Sink, keep: int) -> None:
        """`sink` as events.sink of the configuration; `keep`: how many events stay in memory."""
        self._sink = open_sink(sink) if isinstance(sink, str) else sink
        # as lines: a quarter of the memory of the values they stand for
        self._kept: deque[str] = deque(maxlen=keep)
        self._failed = 0
        self._stalled = 0
        self.cursor = 0
        """Sequence number of the next event."""

    def write(self, event: dict[str, Any]) -> None:
        line = to_json(event)
        self._kept.append(line)
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
        return self._last(min(limit, len(self._kept)))

    def since(self, cursor: int) -> tuple[int, Sequence[dict[str, Any]]]:
        """(new cursor, events from `cursor` on that are still kept)."""
        return self.cursor, self._last(min(max(self.cursor - cursor, 0), len(self._kept)))

    def _last(self, count: int) -> list[dict[str, Any]]:
        return [json.loads(line) for line in islice(self._kept, len(self._kept) - count, None)]
