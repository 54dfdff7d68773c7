"""The one file that imports bcc: compiles programs, and loads them one by one. Standard library only."""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
import socket
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from agent.errors import KernelError, PinError
from agent.kernel import libbpf
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.source import fields_read

# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18

Program = tuple[str, int, int, str]
"""C function, program type, attach type, name."""


OPTIONAL_STRUCTS = frozenset({"mptcp_sock", "mptcp_subflow_context"})
"""Of kernels with CONFIG_MPTCP; the source asks with #ifdef."""


class RungRefused(KernelError):
    """This kernel does not take a rung; the next one is tried."""


def open_btf() -> libbpf.Btf:
    """Raises KernelError where the kernel has none."""
    try:
        return libbpf.Btf()
    except OSError as error:
        raise KernelError(
            f"{error.strerror}: licet needs a kernel built with CONFIG_DEBUG_INFO_BTF"
        ) from error


def offset_flags(source: str, btf: libbpf.Btf) -> list[str]:
    """A compiler flag for the offset of each kernel struct field that the source reads."""
    flags = []
    for struct, name in fields_read(source):
        offset = btf.offset_of(struct, name)
        if offset is None and struct in OPTIONAL_STRUCTS:
            continue
        if offset is None:
            raise KernelError(f"this kernel's BTF has no field {struct}.{name}, which licet reads")
        flags.append(f"-DOFF_{struct}__{name}={offset}")
    return flags


def stand_in_for_kallsyms(folder: Path) -> None:
    """For this process alone, /proc/kallsyms is the few lines of include/kallsyms.

    bcc reads all of it for each compilation, 0.15 s, only to learn whether the kernel has
    bpf_probe_read_user (Linux 5.5), which every kernel has that licet runs on. Where a mount is not
    allowed it reads the kernel's, which shows its addresses to CAP_SYSLOG only."""
    libc = ct.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0:
        libc.mount(os.fsencode(folder / "include/kallsyms"), b"/proc/kallsyms", None, _MS_BIND, None)


class Compiled:
    """One compilation by bcc, with maps of its own until it takes over those that are pinned."""

    def __init__(self, source: str, flags: list[str], folder: Path) -> None:
        os.environ["BCC_KERNEL_SOURCE"] = str(folder)
        try:
            import bcc  # the one place
        except ImportError as error:
            raise KernelError(
                f"this Python ({sys.executable}) cannot import bcc: {error}; install python3-bpfcc "
                "(PyPI's bcc is another package)"
            ) from error
        try:
            self._bpf = bcc.BPF(text=source.encode(), cflags=[f"-I{folder}/include", *flags])
        except Exception as error:  # bcc raises bare Exception
            raise KernelError(f"bcc cannot compile the programs: {error}") from error
        self._lib = bcc.lib
        self.version = getattr(bcc, "__version__", "unknown")

    def map_fd(self, name: str) -> int:
        return int(self._lib.bpf_table_fd(self._bpf.module, name.encode()))

    def take_over_maps(self, pins: Pins) -> list[str]:
        """Names of those that were not pinned yet. Raises PinError where one has another shape."""
        left = []
        for name in PINNED_MAPS:
            fresh = self.map_fd(name)
            try:
                pinned = libbpf.open_pin(pins.map(name))
            except FileNotFoundError:
                left.append(name)
                continue
            have, want = libbpf.map_info(pinned), libbpf.map_info(fresh)
            shape = ("type", "key_size", "value_size", "max_entries")
            for attribute in shape:
                if getattr(have, attribute) != getattr(want, attribute):
                    raise PinError(
                        f"{pins.map(name)}: pinned by another version of licet: its {attribute} is "
                        f"{getattr(have, attribute)}, this one's is {getattr(want, attribute)}; "
                        "run `licet unload` first (counters start anew)"
                    )
            os.dup2(pinned, fresh)
            os.close(pinned)
        return left

    def load(self, function: str, program_type: int, attach_type: int = -1, name: str = "") -> int:
        """The program's fd. Raises KernelError with what the kernel said.

        Not bcc's own load_func: it attaches by itself what has a well-known name, and takes the target
        of a tracing program from its name ("kretfunc__FUNCTION")."""
        lib, module, symbol = self._lib, self._bpf.module, function.encode()
        fd = lib.bcc_func_load(
            module,
            program_type,
            (name or function).encode(),
            lib.bpf_function_start(module, symbol),
            lib.bpf_function_size(module, symbol),
            lib.bpf_module_license(module),
            lib.bpf_module_kern_version(module),
            0,
            None,
            0,
            None,
            attach_type,
        )
        if fd < 0:
            raise KernelError(f"the kernel refused program {function}: {os.strerror(ct.get_errno())}")
        return int(fd)


class Aside:
    """Programs compiled and loaded by a child of this process meanwhile: clang takes one CPU, and is not safe
    in two threads. The child waits for `maps_are_pinned` before it loads."""

    def __init__(self, compile_: Callable[[], Compiled], pins: Pins, programs: Sequence[Program]) -> None:
        self._programs = programs
        self._here, there = socket.socketpair()
        self._pid = os.fork()
        if self._pid == 0:
            self._here.close()
            _load_for(there, compile_, pins, programs)
            os._exit(0)
        there.close()

    def maps_are_pinned(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # the child has failed: result() says how
            self._here.sendall(b"!")

    def result(self) -> list[int]:
        """The fds of the programs, in their order. Raises KernelError with what the child said."""
        said, fds, _, _ = socket.recv_fds(self._here, 65536, len(self._programs))
        self.close()
        if not fds:
            raise KernelError(said.decode() or "the compiling child died")
        return list(fds)

    def close(self) -> None:
        """Ends the child, if it has not ended; may be called twice."""
        self._here.close()
        if self._pid:
            os.waitpid(self._pid, 0)
            self._pid = 0


def _load_for(
    parent: socket.socket, compile_: Callable[[], Compiled], pins: Pins, programs: Sequence[Program]
) -> None:
    try:
        compiled = compile_()
        if not parent.recv(1):
            return  # the parent has failed
        compiled.take_over_maps(pins)
        with ThreadPoolExecutor(len(programs)) as pool:  # most of the time is the verifier's
            fds = list(pool.map(lambda program: compiled.load(*program), programs))
        socket.send_fds(parent, [b"!"], fds)
    except (KernelError, OSError) as error:
        parent.sendall(str(error).encode())
