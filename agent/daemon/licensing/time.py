"""License time of this host: looks at the clocks, and goes on from what an earlier daemon stored."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path

from agent.license import clock_json
from agent.license.clock import SECOND_NS, LicenseClock, Moment
from agent.state_files import CLOCK, State, kept_time
from agent.system.boottime import boot_id, clocks
from agent.system.files import NotAFile

log = logging.getLogger(__name__)
MOVED_NS = SECOND_NS // 2
"""A move of license time by this much is stored, and compiled into the kernel's tables, at once."""


class LicenseTime:
    """Looks at both clocks, and stores license time. Thread-safe."""

    def __init__(
        self,
        folder: Path,
        read: Callable[[], tuple[int, int]] = clocks,
        boot: Callable[[], str] = boot_id,
    ) -> None:
        """Goes on from the file in `folder`. If that is damaged, license time starts anew, and `damage` has
        the reason. If it cannot be read now, `store` tries again, and writes nothing before."""
        self._folder = folder
        self._read = read
        self._boot = boot
        self._unread = ""
        self._lock = threading.Lock()
        self.damage = ""
        boot_ns, wall_ns = read()
        try:
            self._clock = self._resumed(boot_ns, wall_ns)
        except (OSError, ValueError) as error:
            self._clock = LicenseClock.started(boot(), boot_ns, wall_ns)
            self._note(error)
        self._stored_ns: int | None = None

    def _resumed(self, boot_ns: int, wall_ns: int) -> LicenseClock:
        """Raises OSError and ValueError."""
        stored = kept_time(self._folder)
        if stored is None:
            return LicenseClock.started(self._boot(), boot_ns, wall_ns)
        return clock_json.resumed(stored, self._boot(), boot_ns, wall_ns)

    def _note(self, error: OSError | ValueError) -> None:
        path = self._folder / CLOCK
        if isinstance(error, OSError) and not isinstance(error, NotAFile):
            self._unread = (
                f"{path}: cannot be read: {error.strerror}; the agent tries again, and goes by the release "
                "date of this version or the wall clock meanwhile"
            )
            return
        self.damage = (
            f"{path}: {_why(error)}; license time starts anew, from the release date of this version or the "
            "wall clock"
        )

    @property
    def now(self) -> LicenseClock:
        """The clock as of the last look."""
        return self._clock

    def look(self) -> LicenseClock:
        """Look at both clocks."""
        with self._lock:
            self._clock = self._clock.looked(*self._read())
            return self._clock

    def moment(self) -> Moment:
        """Look at both clocks: what time it is now."""
        clock = self.look()
        return clock.moment(clock.boot_ns)

    def store(self, state: State) -> None:
        """Look, and store license time. If it cannot be written, `state` has the problem and tries again."""
        if self._unread and not self._is_read():
            return
        clock = self.look()
        state.keep_time(clock_json.to_json(clock))
        self._stored_ns = clock.offset_ns

    def _is_read(self) -> bool:
        """Try again to go on from the file."""
        with self._lock:
            self._unread = ""
            try:
                self._clock = self._resumed(*self._read())
            except (OSError, ValueError) as error:
                self._note(error)
            if self.damage:
                log.error("%s", self.damage)
            return not self._unread

    @property
    def has_moved(self) -> bool:
        """True if license time has moved since it was stored, in a way that a restart must not undo."""
        return self._stored_ns is None or abs(self._clock.offset_ns - self._stored_ns) >= MOVED_NS

    @property
    def problem(self) -> str:
        """Why the stored time cannot be read, or what is wrong while the wall clock and license time differ
        by more than five minutes."""
        return self._unread or self._clock.problem


def _why(error: OSError | ValueError) -> str:
    return f"cannot be read: {error.strerror}" if isinstance(error, OSError) else f"damaged: {error}"
