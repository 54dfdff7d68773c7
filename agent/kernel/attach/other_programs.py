"""Programs of other tools at the hooks that ours share with them. Standard library only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from agent.kernel.pins import Pins
from agent.system import libbpf

HOOKS = {"connect": ("observe_connect4", 10), "flow": ("track_flows", 3)}
"""Our program at a hook, and the attach type."""


def behind(pins: Pins, cgroup: Path, hook: str) -> list[str]:
    """Names of others' programs that run after ours for the processes of its cgroup. Those of cgroups below
    run before it, and are not asked for. None where the kernel can't be asked."""
    program, attach_type = HOOKS[hook]
    try:
        ours = {_id(pins, name): name for name in pins.programs()}
        running = libbpf.cgroup_programs(cgroup, attach_type)
    except OSError:
        return []
    place = next((place for place, number in enumerate(running) if ours.get(number) == program), None)
    if place is None:
        return []
    return [_name(number) for number in running[place + 1 :] if number not in ours]


def _id(pins: Pins, program: str) -> int:
    fd = libbpf.open_pin(pins.program(program))
    try:
        return int(libbpf.program_info(fd).id)
    finally:
        os.close(fd)


def _name(number: int) -> str:
    """Cut at 15 characters by the kernel; empty names have only their number."""
    with contextlib.suppress(OSError):  # it is gone
        fd = libbpf.open_program(number)
        try:
            name = libbpf.program_info(fd).name.decode("utf-8", "replace")
        finally:
            os.close(fd)
        if name:
            return str(name)
    return f"program {number}"
