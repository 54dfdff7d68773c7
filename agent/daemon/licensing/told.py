"""What was told of licenses, kept for the next daemon: it repeats nothing."""

from __future__ import annotations

import logging
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.daemon.licensing.records import Records
from agent.license.times import Edge, Notice

log = logging.getLogger(__name__)
TOLD = "told.json"
MOST_DAYS = 3_000_000
"""Times of licenses are in the years 1970 to 9999."""
MOST_NOTICES = 1024
"""Of licenses that are gone, and may return. Those about the latest times are remembered."""

Key = tuple[str, ...]


@dataclass(slots=True)
class Told:
    """`states`: JSON values of the last state that was told, by what it was told of. `notices`: by id and
    edge."""

    states: dict[Key, Mapping[str, Any]] = field(default_factory=dict)
    notices: dict[tuple[str, Edge], Notice] = field(default_factory=dict)

    def note(self, name: str, notice: Notice) -> None:
        """Remember a notice about the license with this id."""
        self.notices[name, notice.edge] = notice

    def forget(self, present: Collection[str]) -> None:
        """Keep at most MOST_NOTICES notices about licenses that are gone. `present`: ids that are not."""
        gone = [key for key in self.notices if key[0] not in present]
        gone.sort(key=lambda key: self.notices[key].at, reverse=True)
        for key in gone[MOST_NOTICES:]:
            del self.notices[key]

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "states": [[list(key), dict(state)] for key, state in self.states.items()],
            "notices": [
                [name, edge.value, one.at.isoformat(), one.days] for (name, edge), one in self.notices.items()
            ],
        }

    @classmethod
    def from_json(cls, stored: Any) -> Told:
        """Raises ValueError, TypeError or KeyError if `stored` is damaged."""
        told = cls()
        for key, state in stored["states"]:
            if len(key) not in (2, 3):
                raise ValueError(f"a key of {len(key)} parts")
            told.states[tuple(str(part) for part in key)] = {str(name): one for name, one in state.items()}
        for name, edge, at, days in stored["notices"]:
            of = Edge(edge)
            moment = datetime.fromisoformat(at)
            if moment.tzinfo is None:
                raise ValueError(f"a time without an offset: {at}")
            if not isinstance(days, int) or not 0 <= days <= MOST_DAYS:
                raise ValueError(f"a notice of {days} days")
            told.notices[str(name), of] = Notice(of, moment, days)
        return told


class ToldStore:
    """Keeps the record in a folder. One that cannot be written is written later."""

    def __init__(self, folder: Path) -> None:
        self._records = Records(folder)

    @property
    def problem(self) -> str:
        return self._records.problem

    def read(self) -> Told:
        """Empty if there is none, or if it cannot be read or is damaged: what it holds is then told again."""
        try:
            stored = self._records.read(TOLD)
        except OSError as error:
            log.error("%s: cannot be read: %s; licenses are told again", TOLD, error.strerror)
            self._records.release(TOLD)
            return Told()
        if stored is not None:
            with self._records.understanding(TOLD):
                return Told.from_json(stored)
        return Told()

    def write(self, told: Mapping[str, Any]) -> None:
        """Write `Told.to_json`."""
        self._records.write(TOLD, told)

    def retry(self) -> None:
        """Write what could not be written before."""
        self._records.retry()
