"""A tracepoint's program, attached only by this process and only while it is needed."""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass

from agent.kernel.pins import Pins
from agent.system import libbpf

log = logging.getLogger(__name__)


@dataclass(slots=True)
class Tracepoint:
    """The link is not pinned: without a daemon, no process would read the events."""

    pins: Pins
    name: str
    program: str
    without: str
    """The consequence if this kernel has no such tracepoint."""
    _link: int | None = None
    _failed: str = ""

    @property
    def attached(self) -> bool:
        return self._link is not None

    def follow(self, wanted: bool) -> bool:
        """Attach or detach. True if the program was just attached.

        The program is loaded with the gates, shortly after the start."""
        if wanted == self.attached:
            return False
        if self._link is not None:
            os.close(self._link)
            self._link = None
            return False
        try:
            program = libbpf.open_pin(self.pins.program(self.program))
        except FileNotFoundError:
            return False
        try:
            self._link = libbpf.raw_tracepoint_open(self.name, program)
        except OSError as error:
            if str(error) != self._failed:
                log.warning("%s: %s; %s", self.name, error, self.without)
            self._failed = str(error)
            return False
        finally:
            os.close(program)
        return True
