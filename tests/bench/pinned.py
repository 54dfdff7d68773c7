"""The agent's programs, as it pinned them or by their names."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from agent.kernel.pins import Pins
from agent.system import libbpf


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


@contextmanager
def programs_named(names: Iterable[str]) -> Iterator[dict[str, list[int]]]:
    """fds of all that are loaded under each name, whoever did. Raises RuntimeError if there are none."""
    with ExitStack() as held:
        found: dict[str, list[int]] = {name: [] for name in names}
        for fd in libbpf.all_programs():
            held.callback(os.close, fd)
            name = libbpf.program_info(fd).name.decode()
            if name in found:
                found[name].append(fd)
        missing = [name for name, fds in found.items() if not fds]
        if missing:
            raise RuntimeError(f"no program is loaded under the name {', '.join(missing)}")
        yield found
