"""Programs of other tools at the hooks that licet uses too. Standard library only."""

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
"""By hook: licet's program and its attach type."""


def behind(pins: Pins, cgroup: Path, hook: str) -> list[str]:
    """Names of other tools' programs that run after licet's for the processes of `cgroup`. Programs of
    cgroups below run before it and are left out. The list is empty where the kernel refuses the query."""
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
    """The name, which the kernel cuts at 15 characters; "program NUMBER" where the program has no name."""
    with contextlib.suppress(OSError):  # the program was unloaded meanwhile
        fd = libbpf.open_program(number)
        try:
            name = libbpf.program_info(fd).name.decode("utf-8", "replace")
        finally:
            os.close(fd)
        if name:
            return str(name)
    return f"program {number}"


def tcx_programs(interface: int) -> int:
    """The number of tcx programs (Linux 6.6) at ingress of an interface in the calling thread's network
    namespace; 0 where the kernel does not support tcx."""
    try:
        return len(libbpf.query_programs(interface, AttachType.TCX_INGRESS, 0, _MOST_PROGRAMS))
    except OSError:
        return 0


def _run_at(cgroup: Path, attach_type: int) -> list[int]:
    """Ids of the programs that run at a hook for the processes of a cgroup. The cgroup's own programs come
    first, then those of the cgroups above. Raises OSError."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return libbpf.query_programs(fd, attach_type, QUERY_EFFECTIVE, _MOST_PROGRAMS)
    finally:
        os.close(fd)
