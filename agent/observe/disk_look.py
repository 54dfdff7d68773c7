"""Executables on disk. Below a glob there may be a file system that a user serves, and that does not answer:
that costs this selector's look, and nothing else."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from functools import partial

from agent.observe.executables import Executables, find_one, merged
from agent.observe.patience import Patience, Unanswered
from agent.observe.trails import Trail, TrailWatch

log = logging.getLogger(__name__)
WAIT_S = 5.0
"""For one selector: as many files as are looked at are stat()ed in less, from a disk too."""
_NOTHING = Executables(frozenset(), {}, {})


class DiskLook:
    def __init__(self, patience: Patience, wait_s: float = WAIT_S) -> None:
        self._patience = patience
        self._wait_s = wait_s
        self._known: Mapping[str, Executables] = {}
        """By selector, what was found last."""
        self._watch = TrailWatch()

    def find(self, selectors: Iterable[str]) -> Executables:
        """Where there is no answer, what was found before."""
        self._known = {selector: self._find(selector) for selector in selectors}
        return merged(self._known.values())

    def _find(self, selector: str) -> Executables:
        try:
            return self._patience.ask(f"exe {selector}", partial(find_one, selector), self._wait_s)
        except Unanswered as error:
            if error.is_asked:
                log.warning("%s: what it finds is known once it runs, or once its files answer", error)
            return self._known.get(selector, _NOTHING)

    def switched(self, trails: Mapping[str, Trail]) -> bool:
        """As of TrailWatch; without an answer, none was."""
        try:
            return self._patience.ask("links", partial(self._watch.switched, trails), self._wait_s)
        except Unanswered:
            return False
