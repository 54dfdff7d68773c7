"""Checks that the links and maps in the kernel are still this daemon's."""

from __future__ import annotations

import contextlib
import os

from agent.kernel.pins import Pins
from agent.system import bpf_map, libbpf

OBSERVERS = ("track_flows", "observe_connect4", "observe_connect6", "cgroup_mkdir")
"""Links that exist as long as anything is observed."""
SEEN_MAPS = ("ring", "uses", "counts", "flows", "generation")


class PinsWatch:
    """Checks that links and maps are still those this daemon found or attached.

    The lock works only between daemons that take it. A daemon of version 0.1.0, or a user who deletes pins,
    does not take it."""

    def __init__(self, pins: Pins) -> None:
        """Make this while the lock is held, once the programs are attached."""
        self._pins = pins
        self._maps = frozenset(self._pinned_maps().values())
        self._own = self._attached()
        self.problem = ""

    def look(self) -> None:
        """Compare the pins with those of the start, and set `problem`."""
        now = self._attached()
        changed = [name for name, number in self._own.items() if now.get(name) != number]
        gone = [name for name in changed if name not in now]
        if gone:
            self.problem = (
                f"{self._pins.base}: {gone[0]} is gone: this daemon sees nothing, and refuses "
                "nothing; restart it"
            )
        elif changed:
            self.problem = (
                f"{self._pins.base}: {changed[0]} is another daemon's: this one sees nothing; give each its "
                "own paths.pins, paths.run and paths.state, and restart this one"
            )
        else:
            self.problem = ""

    def _attached(self) -> dict[str, object]:
        """Which maps are pinned, and whether the linked programs use this daemon's maps: `licet load` may
        have pinned the same programs again."""
        found: dict[str, object] = dict(self._pinned_maps())
        for name in OBSERVERS:
            with contextlib.suppress(OSError), libbpf.opened_pin(self._pins.link(name)) as link:
                program = libbpf.open_program(libbpf.link_program(link))
                try:
                    found[name] = bool(libbpf.program_maps(program) & self._maps)
                finally:
                    os.close(program)
        return found

    def _pinned_maps(self) -> dict[str, int]:
        found = {}
        for name in SEEN_MAPS:
            with contextlib.suppress(OSError), libbpf.opened_pin(self._pins.map(name)) as fd:
                found[f"map {name}"] = bpf_map.map_info(fd).id
        return found
