"""Programs of other tools at the hooks that ours share with them. Standard library only."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

from agent.kernel.pins import Pins
from agent.kernel.uapi import QUERY_EFFECTIVE, AttachType
from agent.system import libbpf

_MOST_PROGRAMS = 512
HOOKS = {
    "connect": ("observe_connect4", AttachType.CGROUP_INET4_CONNECT),
    "flow": ("track_flows", AttachType.CGROUP_SOCK_OPS),
}
"""Our program at a hook, and the attach type."""


def behind(pins: Pins, cgroup: Path, hook: str) -> list[str]:
    """Names of others' programs that run after ours for the processes of its cgroup. Those of cgroups below
    run before it, and are not asked for. None where the kernel can't be asked."""
    program, attach_type = HOOKS[hook]
    try:
        ours = {_id(pins, name): name for name in pins.programs()}
        running = _run_at(cgroup, attach_type)
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


def tcx_programs(interface: int) -> int:
    """How many tcx programs (Linux 6.6) are attached at ingress of an interface of the calling thread's
    network namespace; 0 where the kernel has none."""
    try:
        return len(libbpf.query_programs(interface, AttachType.TCX_INGRESS, 0, _MOST_PROGRAMS))
    except OSError:
        return 0


def _run_at(cgroup: Path, attach_type: int) -> list[int]:
    """Ids of the programs that run at a hook for the processes of a cgroup, in their order: its own, then
    those of the cgroups above. Raises OSError."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return libbpf.query_programs(fd, attach_type, QUERY_EFFECTIVE, _MOST_PROGRAMS)
    finally:
        os.close(fd)
