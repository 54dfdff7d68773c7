"""BPF_PROG_TEST_RUN: one program, run many times in a row on an empty packet."""

from __future__ import annotations

import ctypes as ct
import os
from dataclasses import dataclass

_lib = ct.CDLL("libbpf.so.1", use_errno=True)


class _Options(ct.Structure):
    """struct bpf_test_run_opts of bpf/bpf.h, libbpf 1.0."""

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


@dataclass(frozen=True, slots=True)
class Run:
    answer: int
    """What the last run returned."""
    ns: int
    """For one run, on average, as the kernel measured it."""


def run_repeatedly(program_fd: int, repeat: int) -> Run:
    """Raises OSError."""
    options = _Options(sz=ct.sizeof(_Options), data_in=bytes(64), data_size_in=64, repeat=repeat)
    if _lib.bpf_prog_test_run_opts(program_fd, ct.byref(options)) != 0:
        number = ct.get_errno()
        raise OSError(number, f"BPF_PROG_TEST_RUN: {os.strerror(number)}")
    return Run(answer=options.retval, ns=options.duration)
