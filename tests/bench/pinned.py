"""The agent's programs, as it pinned them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.kernel import libbpf
from agent.kernel.pins import Pins


@contextmanager
def pinned_programs(root: Path) -> Iterator[dict[str, int]]:
    """fds by name, open inside the block. Raises RuntimeError if there are none."""
    pins = Pins(root)
    with ExitStack() as held:
        programs = {}
        for name in pins.programs():
            programs[name] = libbpf.open_pin(pins.program(name))
            held.callback(os.close, programs[name])
        if not programs:
            raise RuntimeError(f"{root}: no programs are pinned here")
        yield programs
