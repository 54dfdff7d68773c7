"""Whether what is attached to the kernel is still this daemon's."""

from __future__ import annotations

import contextlib
import os

from agent.kernel.pins import Pins
from agent.system import bpf_map, libbpf

OBSERVERS = ("track_flows", "observe_connect4", "observe_connect6", "cgroup_mkdir")
"""Links that are there as long as anything is observed."""
SEEN_MAPS = ("ring", "uses", "counts", "flows", "generation")


class PinsWatch:
    """Is what is attached still what this daemon has found or attached? A lock holds only between daemons
    that take it: one of version 0.1.0, and whoever removes pins by hand, do not."""

    def __init__(self, pins: Pins) -> None:
        """To be made while the lock is held, once the programs are attached."""
        self._pins = pins
        self._maps = frozenset(self._pinned_maps().values())
        self._own = self._attached()
        self.problem = ""

    def look(self) -> None:
        """Compares what is pinned with what was pinned at the start, and sets `problem`."""
        now = self._attached()
        changed = [name for name, number in self._own.items() if now.get(name) != number]
        gone = [name for name in changed if name not in now]
        if gone:
            self.problem = (
                f"{self._pins.base}: {gone[0]} is not there any more: this daemon sees nothing, and refuses "
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
        """Which maps are pinned, and whether what the links attach uses those of this daemon: `licet load`
        may have put the same programs there again."""
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
