"""Probes the kernel features that licet uses, and names what licet does without each."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from agent.errors import KernelError
from agent.kernel.attach.empty_program import load_empty_program
from agent.kernel.attach.gates import NOTE_DATAGRAM, OBSERVE_RECEIVE, SEND
from agent.kernel.loading import supervisor
from agent.kernel.loading.accept_rungs import Fexit, Kretprobe
from agent.kernel.uapi import AttachType, Helper, Op, ProgramType, instruction
from agent.system import libbpf
from agent.system.btf import Btf
from agent.system.mounts import read_mounts
from agent.system.time_namespace import refuse_shifted_boot_clock


@dataclass(frozen=True, slots=True)
class Feature:
    name: str
    found: bool
    detail: str
    instead: str
    """What licet does without it."""
    required: bool = False


def _try(name: str, instead: str, attempt: Callable[[], str], *, required: bool = False) -> Feature:
    try:
        return Feature(name, True, attempt(), instead, required)
    except (OSError, KernelError) as error:
        detail = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        return Feature(name, False, detail, instead, required)


def _root() -> str:
    supervisor.require_root()
    return "running as root"


def _boot_clock() -> str:
    refuse_shifted_boot_clock()
    return "the host's"


def _btf() -> str:
    Btf().close()
    usual = Path("/sys/kernel/btf/vmlinux")
    return str(usual) if usual.exists() else "in a file of the kernel package"


def _bcc() -> str:
    python = supervisor.loader_python()
    if python != sys.executable and not Path(python).exists():
        raise KernelError(f"{python} does not exist")
    if python != sys.executable and os.spawnl(os.P_WAIT, python, python, "-c", "import bcc"):
        raise KernelError(f"{python} cannot import bcc; install python3-bpfcc")
    return f"imported by {python}"


def _bpffs(pins: Path) -> Callable[[], str]:
    def attempt() -> str:
        supervisor.ensure_bpffs(pins)
        return f"for {pins}"

    return attempt


def _cgroup2() -> str:
    for mount in read_mounts(Path("/proc/self/mountinfo")):
        if mount.kind == "cgroup2":
            return mount.point
    raise KernelError("not mounted; mount -t cgroup2 none /sys/fs/cgroup")


def _program(kind: int, attach_type: int = 0) -> Callable[[], str]:
    def attempt() -> str:
        os.close(load_empty_program(kind, attach_type))
        return "loads"

    return attempt


def _task_in_sockops() -> str:
    code = (
        instruction(Op.SET, to=1),  # r1 = 0
        instruction(Op.CALL, value=Helper.ANCESTOR_CGROUP_ID),
        instruction(Op.SET, value=1),  # r0 = 1
        instruction(Op.EXIT),
    )
    os.close(
        libbpf.load_program("licet_task", ProgramType.SOCK_OPS, b"".join(code), AttachType.CGROUP_SOCK_OPS)
    )
    return "allowed"


def _fexit() -> str:
    btf = Btf()
    try:
        function = btf.function_id("inet_csk_accept")
        if function is None:
            raise KernelError("no function inet_csk_accept in BTF")
        Fexit(function, btf.parameters_of(function)).probe()
    finally:
        btf.close()
    return "attaches to inet_csk_accept"


def _kprobes() -> str:
    Kretprobe(0).probe()
    return "/sys/bus/event_source/devices/kprobe"


def probe(pins: Path) -> list[Feature]:
    """Try each feature once; leave nothing attached. `pins`: the directory where programs are pinned."""
    return [
        _try("root", "licet cannot run", _root, required=True),
        _try("boot clock", "licet cannot run: deadlines would be wrong", _boot_clock, required=True),
        _try("BTF", "licet cannot run: BTF gives the offsets of kernel structs", _btf, required=True),
        _try("bcc", "licet cannot run: bcc compiles the programs", _bcc, required=True),
        _try("bpffs", "licet cannot run: programs and maps are pinned there", _bpffs(pins), required=True),
        _try("cgroup2", "licet cannot run: programs attach to cgroups", _cgroup2, required=True),
        _try(
            "cgroup/connect4, connect6",
            "licet cannot run: local consumers are judged there",
            _program(ProgramType.CGROUP_SOCK_ADDR, AttachType.CGROUP_INET4_CONNECT),
            required=True,
        ),
        _try(
            "cgroup/sendmsg4, sendmsg6",
            "UDP sent without connect() is judged on arrival, by its address",
            _program(ProgramType.CGROUP_SOCK_ADDR, SEND["refuse_send4"]),
        ),
        _try(
            "cgroup/recvmsg4, recvmsg6",
            "an answer from a declared port to another host's datagram is judged as an attempt",
            _program(ProgramType.CGROUP_SOCK_ADDR, OBSERVE_RECEIVE["observe_receive4"]),
        ),
        _try(
            "cgroup/skb",
            "UDP of this host's processes is judged on arrival, by its address",
            _program(ProgramType.CGROUP_SKB, NOTE_DATAGRAM["note_datagram"]),
        ),
        _try(
            "sockops",
            "licet cannot run: flows and remote consumers are judged there",
            _program(ProgramType.SOCK_OPS, AttachType.CGROUP_SOCK_OPS),
            required=True,
        ),
        _try(
            "raw tracepoints",
            "licet cannot run: they report cgroups made later",
            _program(ProgramType.RAW_TRACEPOINT),
            required=True,
        ),
        _try(
            "sk_lookup",
            "only tc filters refuse packets; UDP from other hosts is neither judged nor counted",
            _program(ProgramType.SK_LOOKUP, AttachType.SK_LOOKUP),
        ),
        _try("tc filter", "only the socket gate refuses packets", _program(ProgramType.SCHED_CLS)),
        _try(
            "current task in sockops",
            "the listener is read from the task itself; what another program redirects is judged on arrival",
            _task_in_sockops,
        ),
        _try("fexit", "kretprobe, else the first send or receive names the acceptor", _fexit),
        _try("kprobes", "the first send or receive names the acceptor (acceptor: always)", _kprobes),
    ]
