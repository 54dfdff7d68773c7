"""Child process: compile (or read from the cache), load and pin the gates or the datagram programs, then
exit.

It attaches nothing. The daemon attaches the gates while a target enforces, and the datagram programs while a
UDP port is declared. The daemon needs no compiler for this.

Run as `python -m agent.kernel.loading.gates` with a job as JSON on stdin, like the observers' loader. The
programs use the maps of the observers, which must be loaded. Standard library only.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Any

from agent.abi import ARRIVALS, U32
from agent.errors import KernelError, PinError
from agent.kernel.attach.gates import (
    BIND,
    CONNECT,
    EXEC,
    LISTENER,
    LOOKUP,
    NOTE_DATAGRAM,
    OBSERVE_ARRIVAL,
    OBSERVE_RECEIVE,
    OBSERVE_SEND,
    REFUSE_ARRIVAL,
    REFUSE_FORWARDED,
    REWRITTEN,
    RMDIR,
    SEND,
)
from agent.kernel.compile.cache import compiled
from agent.kernel.compile.compiler import offset_flags, open_btf
from agent.kernel.compile.source import DATAGRAMS, GATES, HEADERS, joined
from agent.kernel.loading.child import answer
from agent.kernel.loading.program_set import Program, Programs
from agent.kernel.pins import ABI_VERSION, NEXT, Pins
from agent.kernel.uapi import AttachType, ProgramType
from agent.system import bpf_map, libbpf

PROGRAMS: tuple[Program, ...] = (
    *(
        ("refuse_connect", ProgramType.CGROUP_SOCK_ADDR, kind, name)
        for name, kind in (CONNECT | SEND).items()
    ),
    *(("refuse_bind", ProgramType.CGROUP_SOCK_ADDR, kind, name) for name, kind in BIND.items()),
    ("refuse_packet", ProgramType.SCHED_CLS, 0, "refuse_packet"),
    ("refuse_lookup", ProgramType.SK_LOOKUP, AttachType.SK_LOOKUP, LOOKUP),
    ("on_exec", ProgramType.RAW_TRACEPOINT, 0, EXEC),
    ("on_cgroup_rmdir", ProgramType.RAW_TRACEPOINT, 0, RMDIR),
    ("judge_rewritten", ProgramType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, REWRITTEN),
    (LISTENER, ProgramType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, LISTENER),
)
DATAGRAM_PROGRAMS: tuple[Program, ...] = (
    *(("observe_send", ProgramType.CGROUP_SOCK_ADDR, kind, name) for name, kind in OBSERVE_SEND.items()),
    *(
        ("observe_receive", ProgramType.CGROUP_SOCK_ADDR, kind, name)
        for name, kind in OBSERVE_RECEIVE.items()
    ),
    *(("note_datagram", ProgramType.CGROUP_SKB, kind, name) for name, kind in NOTE_DATAGRAM.items()),
    ("observe_arrival", ProgramType.SK_LOOKUP, AttachType.SK_LOOKUP, OBSERVE_ARRIVAL),
    ("refuse_arrival", ProgramType.SK_LOOKUP, AttachType.SK_LOOKUP, REFUSE_ARRIVAL),
    ("refuse_forwarded", ProgramType.SCHED_CLS, 0, REFUSE_FORWARDED),
)
UNITS = {"gates": (GATES, PROGRAMS), "datagrams": (DATAGRAMS, DATAGRAM_PROGRAMS)}
"""By unit: the sources compiled together, and their programs."""
CALLED_BY = {
    LOOKUP: ("lookup_calls", 0),
    REWRITTEN: ("sockops_calls", 0),
    LISTENER: ("listen_calls", 0),
    OBSERVE_ARRIVAL: ("arrival_calls", ARRIVALS.index("observe_arrival")),
    REFUSE_ARRIVAL: ("arrival_calls", ARRIVALS.index("refuse_arrival")),
    REFUSE_FORWARDED: ("packet_calls", 0),
}
"""By program called from other programs: the map of the tail call, and the index in it."""


def run(job: dict[str, Any]) -> dict[str, Any]:
    """{"programs": [pinned programs], "refused": {program: why this kernel refused it}}.

    Raises KernelError or PinError."""
    pins, folder = Pins(Path(job["pins"]), job.get("folder", str(ABI_VERSION))), Path(job["bpf"])
    files, loaded = UNITS[job.get("unit", "gates")]
    source = joined(folder, (*HEADERS, *files))
    with contextlib.closing(open_btf()) as btf:
        code = compiled(source, offset_flags(source, btf), folder, Path(job["programs"]))
    programs = Programs(code)
    missing = programs.take_over_maps(pins)
    if missing:
        raise PinError(f"{pins.base}: {', '.join(missing)} not pinned; run `licet load`")
    refused = {}
    for program in loaded:
        name = program[-1]
        try:
            fd = programs.load(*program)
        except KernelError as error:
            refused[name] = str(error)
            continue
        _replace_pin(pins.program(name), fd)
        # attached trampolines call the socket gate: an upgrade sets this entry later (upgrade/switch.py)
        if name in CALLED_BY and (name != LOOKUP or pins.folder != NEXT):
            table, place = CALLED_BY[name]
            calls = bpf_map.Map.from_fd(programs.map_fd(table), table)
            calls.put(U32.pack(place), U32.pack(fd))
        os.close(fd)
    return {"programs": [one[-1] for one in loaded if one[-1] not in refused], "refused": refused}


def _replace_pin(path: Path, fd: int) -> None:
    fresh = path.with_name(path.name + "_new")
    fresh.unlink(missing_ok=True)
    libbpf.pin(fd, fresh)
    path.unlink(missing_ok=True)
    fresh.rename(path)


if __name__ == "__main__":
    sys.exit(answer(run))
