"""Child process: compile all programs of this version, then load and pin them with their maps in <pins>/next,
beside the version in force. It attaches nothing and changes nothing in force.

Run as `python -m agent.kernel.upgrade.stage` with a job as JSON on stdin, like the observers' loader.
Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from agent.abi import U32, U64
from agent.kernel.attach.gates import OBSERVE_SEND
from agent.kernel.loading import gates
from agent.kernel.loading.child import answer, refuse_lockdown
from agent.kernel.loading.observers import (
    CONNECT_PROGRAMS,
    CONNECT_SIDE,
    FLOW_PROGRAM,
    Loader,
    make_spare_flows,
)
from agent.kernel.loading.program_set import Programs
from agent.kernel.pins import NEXT, Pins
from agent.kernel.uapi import ProgramType
from agent.kernel.upgrade.plan import Way, plan
from agent.system import bpf_map, libbpf


def run(job: dict[str, Any]) -> dict[str, Any]:
    """{"manifest": …, "moved": [map]} and the answer of agent.kernel.loading.gates.run. Raises KernelError.
    Raises PinError where the rows of a pinned map can't be moved."""
    refuse_lockdown()
    before, ready = Pins(Path(job["pins"]), job["before"]), Pins(Path(job["pins"])).ready
    ready.make_folders()
    job = job | {"folder": NEXT}
    loader = Loader(job)
    connect = loader.compile(CONNECT_SIDE)
    ways = plan(connect.code, before, same_events=job["same_events"])
    _pin_maps(connect, ways, before, ready)
    programs, acceptor = loader.climb()
    make_spare_flows(programs.map_fd("flows"))
    _pin_program(ready, FLOW_PROGRAM[-1], programs.load(*FLOW_PROGRAM))
    _pin_program(ready, "cgroup_mkdir", programs.load("on_cgroup_mkdir", ProgramType.RAW_TRACEPOINT))
    for name, program in acceptor.load(programs):
        _pin_program(ready, name, program)
    for one in CONNECT_PROGRAMS:
        _pin_program(ready, one[-1], connect.load(*one))
    loaded = gates.run(job)
    if any(before.link(name).exists() for name in OBSERVE_SEND):
        gates.run(job | {"unit": "datagrams"})
    made = [name for name, way in ways.items() if way is not Way.KEEP]
    return {
        "manifest": loader.manifest(connect.compiler, acceptor, made),
        **loaded,
        "moved": [name for name, way in ways.items() if way is Way.MOVE],
    }


def _pin_maps(programs: Programs, ways: dict[str, Way], before: Pins, ready: Pins) -> None:
    for name, way in ways.items():
        if way is Way.KEEP:
            programs.use(name, libbpf.open_pin(before.map(name)))
        libbpf.pin(programs.map_fd(name), ready.map(name))
    _go_on_with_generation(before, ready)


def _go_on_with_generation(before: Pins, ready: Pins) -> None:
    with before.opened("generation") as fd:
        number = bpf_map.Map.from_fd(fd, "generation").get(U32.pack(0)) if fd is not None else None
    with ready.opened("generation") as fd:
        if fd is not None:
            bpf_map.Map.from_fd(fd, "generation").put(U32.pack(0), number or U64.pack(0))


def _pin_program(ready: Pins, name: str, program: int) -> None:
    libbpf.pin(program, ready.program(name))


if __name__ == "__main__":
    sys.exit(answer(run))
