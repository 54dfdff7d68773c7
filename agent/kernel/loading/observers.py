"""Child process: compile (or read from the cache), load, attach and pin the observers, then exit. The daemon
itself never imports bcc.

Run as `python -m agent.kernel.loading.observers` with a job as JSON on stdin. It prints a manifest as JSON,
or {"error": …} with exit code 1. Standard library only: it may run with the distribution's own Python.

It adopts maps that are pinned already, if their sizes are those of this version. So flows and counters
outlive a reload of the programs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import sys
import time
from pathlib import Path
from typing import Any

from agent.abi import SPARE_FLOW, U64, event_layouts
from agent.errors import KernelError
from agent.kernel.attach.gates import BIND, CONNECT
from agent.kernel.compile.cache import compiled
from agent.kernel.compile.compiler import offset_flags, open_btf
from agent.kernel.compile.source import HEADERS, joined, source_hash
from agent.kernel.loading.accept_rungs import SOCKET_IO, Acceptor, RungRefused, rungs_for_accept
from agent.kernel.loading.child import Loaded, answer, refuse_lockdown
from agent.kernel.loading.parallel import Aside
from agent.kernel.loading.program_set import Program, Programs
from agent.kernel.pins import ABI_VERSION, Pins
from agent.kernel.uapi import NOEXIST, AttachType, ProgramType
from agent.system import bpf_map, libbpf

# two halves that take about equal time, compiled in parallel
CONNECT_SIDE = ("hooks/connect_observer.c",)
FLOW_SIDE = ("lib/accept.h", "hooks/flow_tracker.c", "hooks/accept_observer.c", "hooks/cgroup_watch.c")
FLOW_PROGRAM: Program = ("track_flows", ProgramType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, "track_flows")
CONNECT_PROGRAMS: tuple[Program, ...] = (
    ("observe_connect", ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, "observe_connect4"),
    ("observe_connect", ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_CONNECT, "observe_connect6"),
)
CGROUP_PROGRAMS = (FLOW_PROGRAM, *CONNECT_PROGRAMS)


class Loader:
    """Loads, attaches and pins the observers. If a step fails, undoes the earlier steps."""

    def __init__(self, job: dict[str, Any]) -> None:
        self._pins = Pins(Path(job["pins"]), job.get("folder", str(ABI_VERSION)))
        self._cgroup = Path(job["cgroup"])
        self._moved: bool = job.get("moved", False)
        """True if the pinned links belong to another cgroup; a link cannot change its cgroup."""
        self._acceptor: str = job["acceptor"]
        self._folder = Path(job["bpf"])
        self._keep = Path(job["programs"])
        self._source = joined(self._folder)
        self._offsets = self._read_offsets()
        self._fresh_maps: list[str] = []
        self._made = Loaded()

    def _read_offsets(self) -> list[str]:
        with contextlib.closing(open_btf()) as btf:
            self._rungs = rungs_for_accept(self._acceptor, btf)
            return offset_flags(self._source, btf)

    def run(self) -> dict[str, Any]:
        """Do all steps; return the manifest. Raises KernelError."""
        started = time.monotonic()
        refuse_lockdown()
        self._pins.refuse_other_versions()
        aside = Aside(lambda: self.compile(CONNECT_SIDE), self._pins, CONNECT_PROGRAMS)
        try:
            programs, acceptor = self.climb()
            self._pins.make_folders()
            for name in self._fresh_maps:
                self._pin(programs.map_fd(name), self._pins.map(name))
            make_spare_flows(programs.map_fd("flows"))
            aside.maps_are_pinned()
            flow_program = programs.load(*FLOW_PROGRAM)
            cgroup_mkdir = programs.load("on_cgroup_mkdir", ProgramType.RAW_TRACEPOINT)
            acceptor_programs = acceptor.load(programs)
            of_cgroup = [flow_program, *aside.result()]
            if self._moved:  # gates of the old cgroup: they must run behind the new observers
                for name in (*CONNECT, *BIND):
                    self._unpin(self._pins.link(name))
            cgroup_fd = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY)
            for program, (_, _, attach, name) in zip(of_cgroup, CGROUP_PROGRAMS, strict=True):
                self._attach_cgroup(name, program, cgroup_fd, attach)
            os.close(cgroup_fd)
            self._attach_tracepoint("cgroup_mkdir", cgroup_mkdir)
            self._replace_acceptor(acceptor, acceptor_programs)
        except BaseException:
            self._made.undo()
            raise
        finally:
            aside.close()
        manifest = self.manifest(programs.compiler, acceptor, self._fresh_maps)
        return manifest | {"load_s": round(time.monotonic() - started, 3)}

    def manifest(self, compiler: str, acceptor: Acceptor, new_maps: list[str]) -> dict[str, Any]:
        """The manifest, with which the next start compares."""
        return {
            "abi": ABI_VERSION,
            "source": source_hash(self._source, [self._acceptor], self._folder),
            "code": source_hash(self._source, [], self._folder),
            "events": event_layouts(),
            "cgroup": str(self._cgroup),
            "cgroup_id": self._cgroup.stat().st_ino,
            "kernel": platform.release(),
            "bcc": compiler,
            "hooks": {
                "connect": "cgroup-link",
                "flow": "sockops-link",
                "listen": "sockops-link",
                "cgroup": "raw-tracepoint",
                "accept": acceptor.rung,
            },
            "refused_rungs": acceptor.refused,
            "new_maps": new_maps,
            "load_s": 0.0,
        }

    def compile(self, files: tuple[str, ...], flags: tuple[str, ...] = ()) -> Programs:
        source = joined(self._folder, (*HEADERS, *files))
        return Programs(compiled(source, [*self._offsets, *flags], self._folder, self._keep))

    def climb(self) -> tuple[Programs, Acceptor]:
        """Compile with the best attach method for accept() that this kernel supports, found by trying
        each."""
        refused: dict[str, str] = {}
        for acceptor in self._rungs:
            try:
                acceptor.probe()
                programs = self.compile(FLOW_SIDE, acceptor.flags)
                self._fresh_maps = programs.take_over_maps(self._pins)
                acceptor.prepare(programs)
            except (RungRefused, OSError) as error:
                refused[acceptor.rung] = _reason(error)
                continue
            acceptor.refused = refused
            return programs, acceptor
        raise KernelError(f"no attach method for accept() works: {refused}")

    def _pin(self, fd: int, path: Path) -> None:
        libbpf.pin(fd, path)
        self._made.new_pins.append(path)

    def _attach_cgroup(self, name: str, program: int, cgroup_fd: int, attach_type: int) -> None:
        """Attach a program. A link that exists is updated in place, so no connection is missed or counted
        twice."""
        path = self._pins.link(name)
        if self._moved:
            self._unpin(path)
        try:
            link = libbpf.open_pin(path)
        except FileNotFoundError:
            link = libbpf.link_create(program, cgroup_fd, attach_type)
            self._pin(link, path)
        else:
            before = self._opened(self._pins.program(name))
            libbpf.link_update(link, program)
            if before is not None:
                self._made.updated_links.append((path, before))
        os.close(link)
        self._replace_pin(self._pins.program(name), program)

    def _attach_tracepoint(self, name: str, program: int) -> None:
        # these links can't be updated in place: this process holds the earlier one until it exits, for undo
        link = libbpf.raw_tracepoint_open(name, program)
        self._replace_pin(self._pins.link(name), link)
        os.close(link)
        self._replace_pin(self._pins.program(name), program)

    def _replace_acceptor(self, acceptor: Acceptor, programs: list[tuple[str, int]]) -> None:
        for name in (*SOCKET_IO, "accept"):
            self._unpin(self._pins.link(name))
            self._unpin(self._pins.program(name))
        for name, program in programs:
            link = acceptor.attach(name, program)
            self._pin(link, self._pins.link(name))
            self._pin(program, self._pins.program(name))

    def _replace_pin(self, path: Path, fd: int) -> None:
        self._unpin(path)
        self._pin(fd, path)

    def _unpin(self, path: Path) -> None:
        before = self._opened(path)
        if before is not None:
            self._made.replaced_pins.append((path, before))
            path.unlink()

    @staticmethod
    def _opened(path: Path) -> int | None:
        try:
            return libbpf.open_pin(path)
        except FileNotFoundError:
            return None


def _reason(error: Exception) -> str:
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


def make_spare_flows(flows: int) -> None:
    """Create one spare row for each CPU. Programs judge attempts in it once the flow table is full."""
    table = bpf_map.Map.from_fd(flows, "flows")
    for cpu in range(libbpf.possible_cpus()):
        with contextlib.suppress(FileExistsError):
            table.put(U64.pack(SPARE_FLOW | cpu), bytes(table.value_size), NOEXIST)


if __name__ == "__main__":
    sys.exit(answer(lambda job: Loader(job).run()))
