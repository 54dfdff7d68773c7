"""A thin ctypes binding of libbpf.so.1 for programs, links and pins. Other modules bind maps, rings and BTF.

Importing bcc costs 74 MB, and no maintained Python binding of libbpf exists. Standard library only, because
the loader runs with the distribution's Python. Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import os
from collections.abc import Iterator
from pathlib import Path

LIB = ct.CDLL("libbpf.so.1", use_errno=True)

_LOG_BYTES = 64 << 20
_MAX_PROGRAM_MAPS = 64  # MAX_USED_MAPS of linux/bpf_verifier.h


class _LinkInfo(ct.Structure):
    """struct bpf_link_info of linux/bpf.h, up to the last field common to all links."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("program", ct.c_uint32),
        ("pad", ct.c_uint32),
    ]


class ProgramInfo(ct.Structure):
    """struct bpf_prog_info of linux/bpf.h, up to the run-time statistics."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("tag", ct.c_uint8 * 8),
        ("jited_prog_len", ct.c_uint32),
        ("xlated_prog_len", ct.c_uint32),
        ("jited_prog_insns", ct.c_uint64),
        ("xlated_prog_insns", ct.c_uint64),
        ("load_time", ct.c_uint64),
        ("created_by_uid", ct.c_uint32),
        ("nr_map_ids", ct.c_uint32),
        ("map_ids", ct.c_uint64),
        ("name", ct.c_char * 16),
        ("ifindex", ct.c_uint32),
        ("gpl_compatible", ct.c_uint32),
        ("netns_dev", ct.c_uint64),
        ("netns_ino", ct.c_uint64),
        ("nr_jited_ksyms", ct.c_uint32),
        ("nr_jited_func_lens", ct.c_uint32),
        ("jited_ksyms", ct.c_uint64),
        ("jited_func_lens", ct.c_uint64),
        ("btf_id", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("func_info", ct.c_uint64),
        ("nr_func_info", ct.c_uint32),
        ("nr_line_info", ct.c_uint32),
        ("line_info", ct.c_uint64),
        ("jited_line_info", ct.c_uint64),
        ("nr_jited_line_info", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("jited_line_info_rec_size", ct.c_uint32),
        ("nr_prog_tags", ct.c_uint32),
        ("prog_tags", ct.c_uint64),
        ("run_time_ns", ct.c_uint64),
        ("run_cnt", ct.c_uint64),
        ("recursion_misses", ct.c_uint64),
        ("verified_insns", ct.c_uint32),
    ]


class _ProgramLoadOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("attempts", ct.c_int),
        ("expected_attach_type", ct.c_int),
        ("prog_btf_fd", ct.c_uint32),
        ("prog_flags", ct.c_uint32),
        ("prog_ifindex", ct.c_uint32),
        ("kern_version", ct.c_uint32),
        ("attach_btf_id", ct.c_uint32),
        ("attach_prog_fd", ct.c_uint32),
        ("attach_btf_obj_fd", ct.c_uint32),
        ("fd_array", ct.c_void_p),
        ("func_info", ct.c_void_p),
        ("func_info_cnt", ct.c_uint32),
        ("func_info_rec_size", ct.c_uint32),
        ("line_info", ct.c_void_p),
        ("line_info_cnt", ct.c_uint32),
        ("line_info_rec_size", ct.c_uint32),
        ("log_level", ct.c_uint32),
        ("log_size", ct.c_uint32),
        ("log_buf", ct.c_void_p),
    ]


class _TestRunOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("data_in", ct.c_char_p),
        ("data_out", ct.c_void_p),
        ("data_size_in", ct.c_uint32),
        ("data_size_out", ct.c_uint32),
        ("ctx_in", ct.c_void_p),
        ("ctx_out", ct.c_void_p),
        ("ctx_size_in", ct.c_uint32),
        ("ctx_size_out", ct.c_uint32),
        ("retval", ct.c_uint32),
        ("repeat", ct.c_int),
        ("duration", ct.c_uint32),
        ("flags", ct.c_uint32),
        ("cpu", ct.c_uint32),
        ("batch_size", ct.c_uint32),
    ]


LIB.libbpf_version_string.restype = ct.c_char_p
LIB.libbpf_set_print(None)  # errors are raised, not written to stderr
LIB.bpf_prog_load.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_char_p,
    ct.c_char_p,
    ct.c_size_t,
    ct.POINTER(_ProgramLoadOpts),
]
LIB.bpf_prog_test_run_opts.argtypes = [ct.c_int, ct.POINTER(_TestRunOpts)]
LIB.bpf_link_create.argtypes = [ct.c_int, ct.c_int, ct.c_int, ct.c_void_p]
LIB.bpf_link_update.argtypes = [ct.c_int, ct.c_int, ct.c_void_p]
LIB.bpf_obj_pin.argtypes = [ct.c_int, ct.c_char_p]
LIB.bpf_obj_get.argtypes = [ct.c_char_p]
LIB.bpf_obj_get_info_by_fd.argtypes = [ct.c_int, ct.c_void_p, ct.POINTER(ct.c_uint32)]
LIB.bpf_raw_tracepoint_open.argtypes = [ct.c_char_p, ct.c_int]
LIB.bpf_enable_stats.argtypes = [ct.c_int]
LIB.bpf_prog_query.argtypes = [
    ct.c_int,
    ct.c_int,
    ct.c_uint32,
    ct.c_void_p,
    ct.c_void_p,
    ct.POINTER(ct.c_uint32),
]
LIB.bpf_prog_get_next_id.argtypes = [ct.c_uint32, ct.POINTER(ct.c_uint32)]
LIB.bpf_prog_get_fd_by_id.argtypes = [ct.c_uint32]


def check(result: int, what: str) -> int:
    """Return the result of a libbpf function. Raises OSError if it is an error: libbpf 1 returns -errno, or
    -1 with errno set."""
    if result < 0:
        number = ct.get_errno() if result == -1 and ct.get_errno() else -result
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def version() -> str:
    """The version of libbpf, for example v1.1."""
    return str(LIB.libbpf_version_string().decode())


def possible_cpus() -> int:
    """The number of values of a per-CPU map for each key."""
    return check(LIB.libbpf_num_possible_cpus(), "possible CPUs")


def pin(fd: int, path: Path) -> None:
    check(LIB.bpf_obj_pin(fd, os.fsencode(path)), f"pin {path}")


def open_pin(path: Path) -> int:
    """A new fd of the object pinned at `path`. Raises FileNotFoundError if there is no pin."""
    return check(LIB.bpf_obj_get(os.fsencode(path)), f"open {path}")


@contextlib.contextmanager
def opened_pin(path: Path) -> Iterator[int]:
    fd = open_pin(path)
    try:
        yield fd
    finally:
        os.close(fd)


def load_program(
    name: str, program_type: int, code: bytes, attach_type: int = 0, attach_btf_id: int = 0
) -> int:
    """Load a program from instructions, 8 bytes each; its fd."""
    opts = _load_opts(attach_type, attach_btf_id)
    result = LIB.bpf_prog_load(program_type, name.encode(), b"GPL", code, len(code) // 8, ct.byref(opts))
    return check(result, f"load {name}")


def verifier_log(program_type: int, code: bytes, attach_type: int = 0, attach_btf_id: int = 0) -> str:
    """The verifier's log for a program."""
    buffer = ct.create_string_buffer(_LOG_BYTES)
    opts = _load_opts(attach_type, attach_btf_id)
    opts.log_level, opts.log_size, opts.log_buf = 1, _LOG_BYTES, ct.addressof(buffer)
    result = LIB.bpf_prog_load(program_type, b"licet_log", b"GPL", code, len(code) // 8, ct.byref(opts))
    if result >= 0:
        os.close(result)
    return buffer.value.decode(errors="replace")


def _load_opts(attach_type: int, attach_btf_id: int) -> _ProgramLoadOpts:
    return _ProgramLoadOpts(
        sz=ct.sizeof(_ProgramLoadOpts), expected_attach_type=attach_type, attach_btf_id=attach_btf_id
    )


def run_program(program_fd: int, repeat: int = 1) -> tuple[int, int]:
    """Run a tc program on an empty packet. Returns its last result, and the average time of a run in ns."""
    opts = _TestRunOpts(sz=ct.sizeof(_TestRunOpts), data_in=bytes(64), data_size_in=64, repeat=repeat)
    check(LIB.bpf_prog_test_run_opts(program_fd, ct.byref(opts)), "run a program")
    return int(opts.retval), int(opts.duration)


def link_create(program_fd: int, target_fd: int, attach_type: int) -> int:
    result = LIB.bpf_link_create(program_fd, target_fd, attach_type, None)
    return check(result, f"attach (type {attach_type})")


def link_update(link_fd: int, program_fd: int) -> None:
    check(LIB.bpf_link_update(link_fd, program_fd, None), "replace the program of a link")


def raw_tracepoint_open(name: str | None, program_fd: int) -> int:
    """Attach to a raw tracepoint. None attaches an fexit program to the function that it was loaded for."""
    result = LIB.bpf_raw_tracepoint_open(name.encode() if name else None, program_fd)
    return check(result, f"attach to {name or 'a function'}")


def link_program(fd: int) -> int:
    """The id of a link's program."""
    info = _LinkInfo()
    size = ct.c_uint32(ct.sizeof(info))
    check(LIB.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "link info")
    return int(info.program)


def program_info(fd: int) -> ProgramInfo:
    info = ProgramInfo()
    size = ct.c_uint32(ct.sizeof(info))
    check(LIB.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "program info")
    return info


def program_maps(fd: int) -> frozenset[int]:
    """Ids of the maps that a program uses."""
    ids = (ct.c_uint32 * _MAX_PROGRAM_MAPS)()
    info = ProgramInfo(nr_map_ids=_MAX_PROGRAM_MAPS, map_ids=ct.addressof(ids))
    size = ct.c_uint32(ct.sizeof(info))
    check(LIB.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "maps of a program")
    return frozenset(ids[: info.nr_map_ids])


def open_program(number: int) -> int:
    """A new fd of the program with this id."""
    return check(LIB.bpf_prog_get_fd_by_id(number), f"open program {number}")


def all_programs() -> Iterator[int]:
    """An fd of each program in the kernel. The caller closes each fd."""
    number = ct.c_uint32(0)
    while LIB.bpf_prog_get_next_id(number.value, ct.byref(number)) == 0:
        fd = LIB.bpf_prog_get_fd_by_id(number.value)
        if fd >= 0:  # else the program was unloaded meanwhile
            yield fd


def enable_stats(kind: int) -> int:
    """Enable statistics of this kind (enum bpf_stats_type) for all programs, until the returned fd is
    closed."""
    return check(LIB.bpf_enable_stats(kind), "enable BPF statistics")


def query_programs(target: int, attach_type: int, flags: int, most: int) -> list[int]:
    """Ids of the programs attached to a cgroup (fd) or an interface (index), in the order in which they
    run."""
    ids, count = (ct.c_uint32 * most)(), ct.c_uint32(most)
    check(LIB.bpf_prog_query(target, attach_type, flags, None, ids, ct.byref(count)), "attached programs")
    return list(ids[: count.value])
