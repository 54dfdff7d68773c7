"""The attach methods ("rungs") that find the process which accepted a connection, best first. Standard
library only."""

from __future__ import annotations

import os
import platform

from agent.errors import KernelError
from agent.kernel.attach.empty_program import load_empty_program
from agent.kernel.loading.program_set import Programs
from agent.kernel.uapi import AttachType, ProgramType
from agent.system import libbpf
from agent.system.btf import Btf
from agent.system.kprobe import KPROBES, kretprobe_event

SOCKET_IO = {"sock_recv_length": "on_receive", "sock_send_length": "on_send"}
FREE_RUNGS = ("fexit", "kretprobe")
AT_RETURN = ("-DACCEPTOR", "-DACCEPTOR_AT_RETURN")
# offset of the return value in struct pt_regs: ax on x86-64, x0 on arm64
RETURN_REGISTER = {"x86_64": 80, "aarch64": 0}


class RungRefused(KernelError):
    """This kernel does not support an attach method; the loader tries the next one."""


class Acceptor:
    """Null object: no program records the accepting process."""

    rung = "none"
    flags: tuple[str, ...] = ()

    def __init__(self) -> None:
        self.refused: dict[str, str] = {}

    def probe(self) -> None:
        """Raises OSError or RungRefused if a test before compiling shows that the method does not work."""

    def prepare(self, programs: Programs) -> None:
        """Raises OSError or RungRefused if the method turns out not to work."""

    def load(self, programs: Programs) -> list[tuple[str, int]]:
        """(name, program fd) of each program of the attach method."""
        return []

    def attach(self, name: str, program: int) -> int:
        """Attach one of these programs; the fd of its link."""
        raise RungRefused(f"{name}: attach method {self.rung} has no programs")


class SocketIo(Acceptor):
    """Runs at the first send or receive on an accepted socket. Exact, but each send and receive costs
    time."""

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
    """fexit on inet_csk_accept. Runs in the accepting process, at no cost elsewhere."""

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
    """kretprobe on inet_csk_accept. A BPF link (Linux 5.15) holds it, so that it outlives this process."""

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


def rungs_for_accept(wanted: str, btf: Btf) -> list[Acceptor]:
    """The attach methods to try, best first, the null object last. `wanted`: the setting `acceptor`."""
    ladder: list[Acceptor] = []
    function_id = btf.function_id("inet_csk_accept")
    if function_id is not None:
        ladder.append(Fexit(function_id, btf.parameters_of(function_id)))
    if platform.machine() in RETURN_REGISTER:
        ladder.append(Kretprobe(RETURN_REGISTER[platform.machine()]))
    ladder.append(SocketIo())
    names = {"never": (), "auto": FREE_RUNGS, "always": (*FREE_RUNGS, SocketIo.rung)}.get(wanted, (wanted,))
    return [*(acceptor for acceptor in ladder if acceptor.rung in names), Acceptor()]
