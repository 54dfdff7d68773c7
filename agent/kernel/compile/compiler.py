"""Compiles programs. Only this file imports bcc. Standard library only."""

from __future__ import annotations

import ctypes as ct
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.errors import KernelError
from agent.kernel.compile.compiled import Code, Function, MapSpec
from agent.kernel.compile.source import fields_read
from agent.kernel.uapi import INSTRUCTION, PSEUDO_MAP_FD, Op
from agent.system import bpf_map
from agent.system.btf import Btf, read_btf

# linux/sched.h, linux/mount.h
_CLONE_NEWNS = 0x20000
_MS_BIND, _MS_REC, _MS_PRIVATE = 1 << 12, 1 << 14, 1 << 18

_VALUE_AT = 4  # of struct bpf_insn

OPTIONAL_STRUCTS = frozenset({"mptcp_sock", "mptcp_subflow_context"})
"""Structs that exist only with CONFIG_MPTCP; the source tests for them with #ifdef."""
RENAMED = {("kernfs_node", "parent"): "__parent", ("kernfs_node", "__parent"): "parent"}  # Linux 6.15
"""Pairs of fields of which a kernel has one; the source tests for it with #ifdef."""

ALTERNATIVES = frozenset({("inet_sock", "inet_flags"), ("inet_sock", "transparent")})
"""Fields of which a kernel has one (Linux 6.6 put single bits into one word)."""

STRICT = ("-Werror=int-conversion", "-Werror=incompatible-pointer-types")
"""Errors that LLVM 16 and later always report. These flags make older versions report them, too."""


OPTIMIZED_ONCE = ("-Xclang", "-disable-llvm-passes")
"""Skips the passes of clang, because bcc runs LLVM's passes itself. Compiling is then twice as fast."""


def open_btf() -> Btf:
    """Raises KernelError where the kernel has no BTF."""
    try:
        return Btf()
    except OSError as error:
        raise KernelError(
            f"{error.strerror}: licet needs a kernel built with CONFIG_DEBUG_INFO_BTF"
        ) from error


def offset_flags(source: str, btf: Btf) -> list[str]:
    """A compiler flag for the offset of each kernel struct field that the source reads."""
    flags = []
    for owner, name in fields_read(source):
        offset = btf.offset_of(owner, name)
        if offset is None and (owner in OPTIONAL_STRUCTS or (owner, name) in ALTERNATIVES):
            continue
        other = RENAMED.get((owner, name))
        if offset is None and other and btf.offset_of(owner, other) is not None:
            continue
        if offset is None:
            raise KernelError(f"this kernel's BTF has no field {owner}.{name}, which licet reads")
        flags.append(f"-DOFF_{owner}__{name}={offset}")
        if bit := btf.bit_of(owner, name):
            flags.append(f"-DBIT_{owner}__{name}={bit}")
    return flags


def stand_in_for_kallsyms(folder: Path) -> None:
    """Mount include/kallsyms, a few lines, over /proc/kallsyms for this process only.

    For each compilation, bcc reads all of /proc/kallsyms, which takes 0.15 s. It only looks for
    bpf_probe_read_user (Linux 5.5), which every kernel has that licet supports. Where mounting is not
    allowed, bcc reads the kernel's file, which shows addresses only with CAP_SYSLOG."""
    libc = ct.CDLL(None)
    if libc.unshare(_CLONE_NEWNS) == 0 and libc.mount(b"none", b"/", None, _MS_REC | _MS_PRIVATE, None) == 0:
        libc.mount(os.fsencode(folder / "include/kallsyms"), b"/proc/kallsyms", None, _MS_BIND, None)


def compile_code(source: str, flags: Sequence[str], folder: Path) -> Code:
    """Raises KernelError with the message of bcc or the compiler, which is on stderr, too."""
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
    try:
        import bcc  # the only import of bcc
    except (ImportError, OSError) as error:  # the module or one of its libraries is missing
        raise KernelError(
            f"this Python ({sys.executable}) cannot import bcc: {error}; install python3-bpfcc "
            "(PyPI's bcc is another package)"
        ) from error
    try:
        bpf = bcc.BPF(text=source.encode(), cflags=[f"-I{folder}/include", *OPTIMIZED_ONCE, *STRICT, *flags])
    except Exception as error:  # bcc raises bare Exception
        raise KernelError(f"bcc cannot compile the programs: {error}") from error
    try:
        return _taken_from(bcc.lib, bpf.module, getattr(bcc, "__version__", "unknown"))
    finally:
        bpf.cleanup()  # bcc created each map and wrote its descriptor into the code


def _taken_from(lib: Any, module: Any, compiler: str) -> Code:
    # bcc's Python does not declare these two functions
    lib.bpf_num_tables.argtypes, lib.bpf_num_tables.restype = [ct.c_void_p], ct.c_size_t
    lib.bpf_table_name.argtypes, lib.bpf_table_name.restype = [ct.c_void_p, ct.c_size_t], ct.c_char_p
    fds = {
        name.decode(): int(lib.bpf_table_fd(module, name))
        for name in (lib.bpf_table_name(module, number) for number in range(lib.bpf_num_tables(module)))
    }
    infos = {name: bpf_map.map_info(fd) for name, fd in fds.items()}
    names = {fd: name for name, fd in fds.items()}
    functions = (lib.bpf_function_name(module, number) for number in range(lib.bpf_num_functions(module)))
    types = next((info.btf_id for info in infos.values() if info.btf_id), 0)
    return Code(
        compiler,
        {name: _spec_of(info) for name, info in infos.items()},
        {
            name.decode(): _function(
                ct.string_at(lib.bpf_function_start(module, name), lib.bpf_function_size(module, name)), names
            )
            for name in functions
        },
        read_btf(types) if types else b"",
    )


def _spec_of(info: bpf_map.MapInfo) -> MapSpec:
    return MapSpec(
        info.type,
        info.key_size,
        info.value_size,
        info.max_entries,
        info.map_flags,
        info.btf_key_type_id,
        info.btf_value_type_id,
    )


def _function(instructions: bytes, names: Mapping[int, str]) -> Function:
    references = tuple(
        (place * INSTRUCTION.size + _VALUE_AT, names[value])
        for place, (code, registers, _, value) in enumerate(INSTRUCTION.iter_unpack(instructions))
        if code == Op.LOAD_64 and registers >> 4 == PSEUDO_MAP_FD
    )
    return Function(Function(instructions, references).naming(lambda _: 0), references)
