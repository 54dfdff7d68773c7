"""Has the programs compiled, if they are not kept from before, loads, attaches and pins them, then exits: the
only process that imports bcc.

Run as `python -m agent.kernel.loading.observers` with a job as JSON on stdin; prints a manifest as JSON, or
{"error": …} and exit code 1. Standard library only: it may run with the distribution's own Python.

Maps that are pinned already are taken over, if their sizes are those of this version: flows and counters
outlive an upgrade of the programs.
"""

from __future__ import annotations

import contextlib
import json
import os
import platform
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.abi import SPARE_FLOW, U64, event_layouts
from agent.errors import KernelError, LicetError
from agent.kernel.attach.empty_program import load_empty_program
from agent.kernel.attach.gates import BIND, CONNECT
from agent.kernel.compile.cache import compiled
from agent.kernel.compile.compiler import offset_flags, open_btf, stand_in_for_kallsyms
from agent.kernel.compile.source import HEADERS, joined, source_hash
from agent.kernel.loading.parallel import Aside
from agent.kernel.loading.program_set import Program, Programs
from agent.kernel.pins import ABI_VERSION, Pins
from agent.kernel.uapi import NOEXIST, AttachType, ProgramType
from agent.system import bpf_map, libbpf
from agent.system.btf import Btf
from agent.system.kprobe import KPROBES, kretprobe_event

# two halves that take about as long, compiled side by side
CONNECT_SIDE = ("hooks/connect_observer.c",)
FLOW_SIDE = ("lib/accept.h", "hooks/flow_tracker.c", "hooks/accept_observer.c", "hooks/cgroup_watch.c")
FLOW_PROGRAM: Program = ("track_flows", ProgramType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS, "track_flows")
CONNECT_PROGRAMS: tuple[Program, ...] = (
    ("observe_connect", ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT, "observe_connect4"),
    ("observe_connect", ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET6_CONNECT, "observe_connect6"),
)
CGROUP_PROGRAMS = (FLOW_PROGRAM, *CONNECT_PROGRAMS)
SOCKET_IO = {"sock_recv_length": "on_receive", "sock_send_length": "on_send"}
LOCKDOWN = Path("/sys/kernel/security/lockdown")
FREE_RUNGS = ("fexit", "kretprobe")
AT_RETURN = ("-DACCEPTOR", "-DACCEPTOR_AT_RETURN")
# where struct pt_regs keeps a return value: x86-64's ax, arm64's x0
RETURN_REGISTER = {"x86_64": 80, "aarch64": 0}


class RungRefused(KernelError):
    """This kernel does not take a rung; the next one is tried."""


@dataclass(slots=True)
class Loaded:
    """What one load has made so far, so that a failure can take it back."""

    new_pins: list[Path] = field(default_factory=list)
    replaced_pins: list[tuple[Path, int]] = field(default_factory=list)
    """With the fd of what was pinned there before."""
    updated_links: list[tuple[Path, int]] = field(default_factory=list)
    """With the fd of the program that ran before."""

    def undo(self) -> None:
        for path in reversed(self.new_pins):
            path.unlink(missing_ok=True)
        for path, before in reversed(self.replaced_pins):
            path.unlink(missing_ok=True)
            libbpf.pin(before, path)
        for path, program in reversed(self.updated_links):
            link = libbpf.open_pin(path)
            libbpf.link_update(link, program)
            os.close(link)


class Loader:
    def __init__(self, job: dict[str, Any]) -> None:
        self._pins = Pins(Path(job["pins"]), job.get("folder", str(ABI_VERSION)))
        self._cgroup = Path(job["cgroup"])
        self._moved: bool = job.get("moved", False)
        """The links that are pinned belong to another cgroup; a link can't move."""
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
            if self._moved:  # gates of the old place: behind the new observers is where they belong
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
        return compiled(source, [*self._offsets, *flags], self._folder, self._keep)

    def climb(self) -> tuple[Programs, Acceptor]:
        """Compiles with the best rung for accept() that this kernel takes, found by trying."""
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
        raise KernelError(f"no rung for accept() works: {refused}")

    def _pin(self, fd: int, path: Path) -> None:
        libbpf.pin(fd, path)
        self._made.new_pins.append(path)

    def _attach_cgroup(self, name: str, program: int, cgroup_fd: int, attach_type: int) -> None:
        """In place where this cgroup has our link already: no connection is missed or counted twice."""
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
        # these links can't be updated in place: the one before is held, for undo, until this process ends
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


class Acceptor:
    """Null object: nobody notes who accepted."""

    rung = "none"
    flags: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}

    def probe(self) -> None:
        """Raises OSError or RungRefused where it is plain, before compiling, that a rung won't work."""

    def prepare(self, programs: Programs) -> None:
        """Raises OSError or RungRefused where the rung turns out not to work."""

    def load(self, programs: Programs) -> list[tuple[str, int]]:
        """(name, program fd) of each program of the rung."""
        return []

    def attach(self, name: str, program: int) -> int:
        """The fd of the link that holds one of them."""
        raise RungRefused(f"{name}: rung {self.rung} has no programs")


class SocketIo(Acceptor):
    """The first send or receive on an accepted socket: exact, at a cost for each send and receive."""

    rung = "socket-io"
    flags = ("-DACCEPTOR", "-DACCEPTOR_SOCKET_IO")

    def probe(self) -> None:
        program = load_empty_program(ProgramType.RAW_TRACEPOINT)
        try:
            for tracepoint in SOCKET_IO:
                os.close(libbpf.raw_tracepoint_open(tracepoint, program))
        except FileNotFoundError:
            raise RungRefused(f"this kernel has no tracepoint {tracepoint} (Linux 6.3)") from None
        finally:
            os.close(program)

    def load(self, programs: Programs) -> list[tuple[str, int]]:
        return [
            (name, programs.load(function, ProgramType.RAW_TRACEPOINT))
            for name, function in SOCKET_IO.items()
        ]

    def attach(self, name: str, program: int) -> int:
        return libbpf.raw_tracepoint_open(name, program)


class Fexit(Acceptor):
    """fexit on inet_csk_accept: in the process that accepts, at no cost elsewhere."""

    rung = "fexit"

    def __init__(self, function_id: int, parameters: int) -> None:
        super().__init__()
        self.flags = (*AT_RETURN, f"-DACCEPTOR_FEXIT={parameters}")
        self._function_id = function_id

    def probe(self) -> None:
        program = load_empty_program(ProgramType.TRACING, AttachType.TRACE_FEXIT, self._function_id)
        try:
            os.close(libbpf.raw_tracepoint_open(None, program))
        finally:
            os.close(program)

    def load(self, programs: Programs) -> list[tuple[str, int]]:
        program = programs.load(
            "fexit_accept", ProgramType.TRACING, AttachType.TRACE_FEXIT, attach_btf_id=self._function_id
        )
        return [("accept", program)]

    def attach(self, name: str, program: int) -> int:
        return libbpf.raw_tracepoint_open(None, program)


class Kretprobe(Acceptor):
    """kretprobe on inet_csk_accept, held by a BPF link (Linux 5.15) so that it outlives this process."""

    rung = "kretprobe"

    def __init__(self, return_register: int) -> None:
        super().__init__()
        self.flags = (*AT_RETURN, f"-DACCEPTOR_KRETPROBE={return_register}")
        self._program = self._event = -1

    def probe(self) -> None:
        if not KPROBES.exists():
            raise RungRefused("this kernel is built without kprobes")
        os.close(kretprobe_event("inet_csk_accept"))

    def prepare(self, programs: Programs) -> None:
        self._program = programs.load("kretprobe_accept", ProgramType.KPROBE)
        self._event = kretprobe_event("inet_csk_accept")

    def load(self, programs: Programs) -> list[tuple[str, int]]:
        return [("accept", self._program)]

    def attach(self, name: str, program: int) -> int:
        return libbpf.link_create(program, self._event, AttachType.PERF_EVENT)


def refuse_lockdown(state: Path = LOCKDOWN) -> None:
    """Raises KernelError where nobody may read kernel memory (kernel_lockdown(7)); without this the verifier
    says so, of a helper that it does not know."""
    try:
        locked = "[confidentiality]" in state.read_text()
    except OSError:
        return  # no such module, or securityfs is not mounted
    if locked:
        raise KernelError(
            "this kernel is locked down (lockdown=confidentiality): no program may read kernel memory, "
            "and licet knows processes by nothing else; boot with lockdown=integrity or none"
        )


def make_spare_flows(flows: int) -> None:
    """The rows in which attempts are judged once there is no room for more, one for each CPU."""
    table = bpf_map.Map.from_fd(flows, "flows")
    for cpu in range(libbpf.possible_cpus()):
        with contextlib.suppress(FileExistsError):
            table.put(U64.pack(SPARE_FLOW | cpu), bytes(table.value_size), NOEXIST)


def rungs_for_accept(wanted: str, btf: Btf) -> list[Acceptor]:
    """The ladder, best rung first, down to nobody; `wanted` is the setting `acceptor`."""
    ladder: list[Acceptor] = []
    function_id = btf.function_id("inet_csk_accept")
    if function_id is not None:
        ladder.append(Fexit(function_id, btf.parameters_of(function_id)))
    if platform.machine() in RETURN_REGISTER:
        ladder.append(Kretprobe(RETURN_REGISTER[platform.machine()]))
    ladder.append(SocketIo())
    names = {"never": (), "auto": FREE_RUNGS, "always": (*FREE_RUNGS, SocketIo.rung)}.get(wanted, (wanted,))
    return [*(acceptor for acceptor in ladder if acceptor.rung in names), Acceptor()]


def answer(run: Callable[[dict[str, Any]], dict[str, Any]]) -> int:
    """Runs the job that stdin holds, in a process of its own, and prints what came of it; the exit code."""
    job = json.load(sys.stdin)
    stand_in_for_kallsyms(Path(job["bpf"]))
    try:
        print(json.dumps(run(job)))
    except LicetError as error:
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
        return 1
    except OSError as error:
        place = f"{error.filename}: " if error.filename else ""
        print(json.dumps({"error": f"{place}{error.strerror or error}", "kind": "KernelError"}))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(answer(lambda job: Loader(job).run()))
