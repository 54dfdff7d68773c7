"""Perf events at kernel functions (perf_event_open(2)). Standard library only."""

from __future__ import annotations

import ctypes as ct
import platform
from pathlib import Path

from agent.system.libbpf import check

KPROBES = Path("/sys/bus/event_source/devices/kprobe")
_PERF_FLAG_FD_CLOEXEC = 8
# system call number by machine (asm/unistd.h); the C library has no function for it
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}
_libc = ct.CDLL(None, use_errno=True)


class _PerfEventAttr(ct.Structure):
    """struct perf_event_attr of linux/perf_event.h in its first published size with config1 and config2."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("size", ct.c_uint32),
        ("config", ct.c_uint64),
        ("sample_period", ct.c_uint64),
        ("sample_type", ct.c_uint64),
        ("read_format", ct.c_uint64),
        ("flags", ct.c_uint64),
        ("wakeup_events", ct.c_uint32),
        ("bp_type", ct.c_uint32),
        ("kprobe_func", ct.c_char_p),
        ("probe_offset", ct.c_uint64),
    ]


def kretprobe_event(function: str) -> int:
    """The fd of a perf event at each return of a kernel function, without a program. bcc's own events cannot
    be used with a link, and only a link outlives this process."""
    kind = int((KPROBES / "type").read_text())
    bit = int((KPROBES / "format/retprobe").read_text().removeprefix("config:"))  # "config:0"
    return open_kprobe_event(kind, 1 << bit, function)


def open_kprobe_event(kind: int, config: int, function: str) -> int:
    """The fd of a perf event at a kernel function (perf_event_open(2)). `kind` and `config` come from
    /sys/bus/event_source/devices/kprobe."""
    attr = _PerfEventAttr(
        type=kind, size=ct.sizeof(_PerfEventAttr), config=config, kprobe_func=function.encode()
    )
    number = _PERF_EVENT_OPEN[platform.machine()]
    # for all processes: a kprobe event on CPU 0 fires on every CPU
    result = _libc.syscall(number, ct.byref(attr), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    return check(result, f"probe {function}")
