"""Has the gates compiled, loads and pins them, then exits. Nothing is attached: that is done while something
enforces, by the daemon, which needs no compiler for it.

Run as `python -m agent.kernel.gate_loader` with a job as JSON on stdin, as the loader. The maps are those of
the observers, which must be loaded. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from agent.errors import KernelError, PinError
from agent.kernel import libbpf
from agent.kernel.abi import U32
from agent.kernel.compiler import offset_flags, open_btf
from agent.kernel.gates import BIND, CONNECT, LOOKUP, REWRITTEN
from agent.kernel.kept import compiled
from agent.kernel.loader import CGROUP_SOCK_ADDR, CGROUP_SOCK_OPS, SOCK_OPS, answer
from agent.kernel.pins import Pins
from agent.kernel.programs import Program
from agent.kernel.source import GATES, HEADERS, joined
from agent.kernel.trampoline import ATTACH_SK_LOOKUP, SK_LOOKUP

SCHED_CLS = 3

PROGRAMS: tuple[Program, ...] = (
    *(("refuse_connect", CGROUP_SOCK_ADDR, kind, name) for name, kind in CONNECT.items()),
    *(("refuse_bind", CGROUP_SOCK_ADDR, kind, name) for name, kind in BIND.items()),
    ("refuse_packet", SCHED_CLS, 0, "refuse_packet"),
    ("refuse_lookup", SK_LOOKUP, ATTACH_SK_LOOKUP, LOOKUP),
    ("judge_rewritten", SOCK_OPS, CGROUP_SOCK_OPS, REWRITTEN),
)
CALLED_BY = {LOOKUP: "lookup_calls", REWRITTEN: "sockops_calls"}
"""Programs that others call, and the map through which they do."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """{"refused": {program: why this kernel does not take it}}. Raises KernelError or PinError."""
    pins, folder = Pins(Path(job["pins"])), Path(job["bpf"])
    source = joined(folder, (*HEADERS, *GATES))
    with contextlib.closing(open_btf()) as btf:
        programs = compiled(source, offset_flags(source, btf), folder, Path(job["programs"]))
    missing = programs.take_over_maps(pins)
    if missing:
        raise PinError(f"{pins.base}: {', '.join(missing)} not pinned; run `licet load`")
    refused = {}
    for program in PROGRAMS:
        name = program[-1]
        try:
            fd = programs.load(*program)
        except KernelError as error:
            refused[name] = str(error)
            continue
        _replace_pin(pins.program(name), fd)
        if name in CALLED_BY:
            calls = libbpf.Map.from_fd(programs.map_fd(CALLED_BY[name]), CALLED_BY[name])
            calls.put(U32.pack(0), U32.pack(fd))
        os.close(fd)
    return {"refused": refused}


def _replace_pin(path: Path, fd: int) -> None:
    fresh = path.with_name(path.name + "_new")
    fresh.unlink(missing_ok=True)
    libbpf.pin(fd, fresh)
    path.unlink(missing_ok=True)
    fresh.rename(path)


if __name__ == "__main__":
    sys.exit(answer(run))
