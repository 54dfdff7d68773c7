"""Finds executables on disk with a timeout per selector. Below a glob there may be a user's file system
that does not answer. That delays this selector's search only."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial

from agent.observe.executables import Executables, find_one, merged
from agent.observe.patience import Patience, Unanswered
from agent.observe.trails import Trail, TrailWatch

log = logging.getLogger(__name__)
WAIT_S = 5.0
"""The timeout for one selector. Even a disk can stat() the maximum number of files in this time."""
_NOTHING = Executables(frozenset(), {}, {})


class DiskLook:
    def __init__(self, patience: Patience, wait_s: float = WAIT_S) -> None:
        self._patience = patience
        self._wait_s = wait_s
        self._known: Mapping[str, Executables] = {}
        """The last result by selector."""
        self._watch = TrailWatch()

    def find(self, selectors: Iterable[str]) -> Executables:
        """Find the executables of these selectors. If a file system does not answer, return the previous
        result."""
        self._known = {selector: self._find(selector) for selector in selectors}
        return merged(self._known.values())

    def _find(self, selector: str) -> Executables:
        try:
            return self._patience.ask(f"exe {selector}", partial(find_one, selector), self._wait_s)
        except Unanswered as error:
            if error.is_asked:
                log.warning(
                    "%s: its executables are found once they run, or once the file system answers", error
                )
            return self._known.get(selector, _NOTHING)

    def switched(self, trails: Mapping[str, Trail]) -> bool:
        """TrailWatch.switched with a timeout. False if the file system does not answer."""
        try:
            return self._patience.ask("links", partial(self._watch.switched, trails), self._wait_s)
        except Unanswered:
            return False
