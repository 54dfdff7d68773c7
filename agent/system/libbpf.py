"""A thin ctypes view of libbpf.so.1: maps, links, pins, programs, ring buffers, BTF.

Importing bcc costs 74 MB and no kept Python binding of libbpf exists. Standard library only, because
the loader runs with the distribution's Python. Every function raises OSError with the kernel's errno.
"""

from __future__ import annotations

import contextlib
import ctypes as ct
import errno
import os
import platform
import struct
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

_lib = ct.CDLL("libbpf.so.1", use_errno=True)
_libc = ct.CDLL(None, use_errno=True)

BPF_ANY, BPF_NOEXIST = 0, 1
BPF_F_NO_PREALLOC = 1
BPF_MAP_TYPE_ARRAY = 2
BPF_MAP_TYPE_ARRAY_OF_MAPS = 12
TYPES_OF_MAPS = (BPF_MAP_TYPE_ARRAY_OF_MAPS, 13)
INSTRUCTION = struct.Struct("<BBhi")
"""struct bpf_insn: code, registers (source in the upper half), offset, value."""
_LOG_BYTES = 64 << 20
_BPF_STATS_RUN_TIME = 0
TCX_INGRESS = 46  # enum bpf_attach_type
_BPF_F_QUERY_EFFECTIVE = 1
_MAX_CGROUP_PROGRAMS = 512
_MAX_PROGRAM_MAPS = 64  # MAX_USED_MAPS of linux/bpf_verifier.h
_BATCH = 4096
_PERF_FLAG_FD_CLOEXEC = 8
# the C library has no function for it; by machine: asm/unistd.h
_PERF_EVENT_OPEN = {"x86_64": 298, "aarch64": 241}


class MapInfo(ct.Structure):
    """struct bpf_map_info of linux/bpf.h, as far as licet reads it."""

    _fields_ = [
        ("type", ct.c_uint32),
        ("id", ct.c_uint32),
        ("key_size", ct.c_uint32),
        ("value_size", ct.c_uint32),
        ("max_entries", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("name", ct.c_char * 16),
        ("ifindex", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("netns_dev", ct.c_uint64),
        ("netns_ino", ct.c_uint64),
        ("btf_id", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("pad", ct.c_uint32),
    ]


class _BtfInfo(ct.Structure):
    """struct bpf_btf_info of linux/bpf.h, up to the size."""

    _fields_ = [("btf", ct.c_uint64), ("btf_size", ct.c_uint32), ("id", ct.c_uint32)]


class _LinkInfo(ct.Structure):
    """struct bpf_link_info of linux/bpf.h, up to what is of every link."""

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


class _MapCreateOpts(ct.Structure):
    _fields_ = [
        ("sz", ct.c_size_t),
        ("btf_fd", ct.c_uint32),
        ("btf_key_type_id", ct.c_uint32),
        ("btf_value_type_id", ct.c_uint32),
        ("btf_vmlinux_value_type_id", ct.c_uint32),
        ("inner_map_fd", ct.c_uint32),
        ("map_flags", ct.c_uint32),
        ("map_extra", ct.c_uint64),
        ("numa_node", ct.c_uint32),
        ("map_ifindex", ct.c_uint32),
    ]


_RING_CALLBACK = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)

_lib.libbpf_version_string.restype = ct.c_char_p
_lib.ring_buffer__new.restype = ct.c_void_p
_lib.ring_buffer__new.argtypes = [ct.c_int, _RING_CALLBACK, ct.c_void_p, ct.c_void_p]
_lib.ring_buffer__add.argtypes = [ct.c_void_p, ct.c_int, _RING_CALLBACK, ct.c_void_p]
_lib.ring_buffer__consume.argtypes = [ct.c_void_p]
_lib.ring_buffer__epoll_fd.argtypes = [ct.c_void_p]
_lib.ring_buffer__free.argtypes = [ct.c_void_p]
_lib.libbpf_set_print(None)  # what went wrong is raised, not written to stderr
_lib.btf__load_vmlinux_btf.restype = ct.c_void_p
_lib.btf__find_by_name_kind.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_uint32]
_lib.btf__type_by_id.restype = ct.c_void_p
_lib.btf__type_by_id.argtypes = [ct.c_void_p, ct.c_uint32]
_lib.btf__name_by_offset.restype = ct.c_char_p
_lib.btf__name_by_offset.argtypes = [ct.c_void_p, ct.c_uint32]
_lib.btf__free.argtypes = [ct.c_void_p]
_lib.bpf_map_lookup_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
_lib.bpf_map_lookup_and_delete_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
_lib.bpf_map_update_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_char_p, ct.c_uint64]
_lib.bpf_map_delete_elem.argtypes = [ct.c_int, ct.c_char_p]
_lib.bpf_map_get_next_key.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
_lib.bpf_map_update_batch.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_char_p,
    ct.POINTER(ct.c_uint32),
    ct.c_void_p,
]
_lib.bpf_map_lookup_batch.argtypes = [
    ct.c_int,
    ct.c_void_p,
    ct.c_void_p,
    ct.c_void_p,
    ct.c_void_p,
    ct.POINTER(ct.c_uint32),
    ct.c_void_p,
]
_lib.bpf_map_create.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_uint32,
    ct.c_uint32,
    ct.c_uint32,
    ct.POINTER(_MapCreateOpts),
]
_lib.bpf_prog_load.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_char_p,
    ct.c_char_p,
    ct.c_size_t,
    ct.POINTER(_ProgramLoadOpts),
]
_lib.bpf_prog_test_run_opts.argtypes = [ct.c_int, ct.POINTER(_TestRunOpts)]
_lib.bpf_btf_load.argtypes = [ct.c_char_p, ct.c_size_t, ct.c_void_p]
_lib.bpf_btf_get_fd_by_id.argtypes = [ct.c_uint32]
_lib.bpf_link_create.argtypes = [ct.c_int, ct.c_int, ct.c_int, ct.c_void_p]
_lib.bpf_link_update.argtypes = [ct.c_int, ct.c_int, ct.c_void_p]
_lib.bpf_obj_pin.argtypes = [ct.c_int, ct.c_char_p]
_lib.bpf_obj_get.argtypes = [ct.c_char_p]
_lib.bpf_obj_get_info_by_fd.argtypes = [ct.c_int, ct.c_void_p, ct.POINTER(ct.c_uint32)]
_lib.bpf_raw_tracepoint_open.argtypes = [ct.c_char_p, ct.c_int]
_lib.bpf_enable_stats.argtypes = [ct.c_int]
_lib.bpf_prog_query.argtypes = [
    ct.c_int,
    ct.c_int,
    ct.c_uint32,
    ct.c_void_p,
    ct.c_void_p,
    ct.POINTER(ct.c_uint32),
]
_lib.bpf_prog_get_next_id.argtypes = [ct.c_uint32, ct.POINTER(ct.c_uint32)]
_lib.bpf_map_get_fd_by_id.argtypes = [ct.c_uint32]
_lib.bpf_prog_get_fd_by_id.argtypes = [ct.c_uint32]


def _check(result: int, what: str) -> int:
    """libbpf 1 returns -errno, or -1 with errno set."""
    if result < 0:
        number = ct.get_errno() if result == -1 and ct.get_errno() else -result
        raise OSError(number, f"{what}: {os.strerror(number)}")
    return result


def version() -> str:
    """As v1.1."""
    return str(_lib.libbpf_version_string().decode())


def possible_cpus() -> int:
    """How many values a per-CPU map has for each key."""
    return _check(_lib.libbpf_num_possible_cpus(), "possible CPUs")


def pin(fd: int, path: Path) -> None:
    _check(_lib.bpf_obj_pin(fd, os.fsencode(path)), f"pin {path}")


def open_pin(path: Path) -> int:
    """A new fd of what is pinned at `path`. FileNotFoundError where nothing is."""
    return _check(_lib.bpf_obj_get(os.fsencode(path)), f"open {path}")


@contextlib.contextmanager
def opened_pin(path: Path) -> Iterator[int]:
    fd = open_pin(path)
    try:
        yield fd
    finally:
        os.close(fd)


def load_empty_program(program_type: int, attach_type: int = 0, attach_btf_id: int = 0) -> int:
    """The fd of a program that does nothing and returns 1: to find out by trying what a kernel takes, and
    to measure what a hook costs by itself."""
    # r0 = 1; exit (a tracing program must return 0)
    code = instruction(0xB7, value=0 if attach_btf_id else 1) + instruction(0x95)
    return load_program("licet_empty", program_type, code, attach_type, attach_btf_id)


def instruction(code: int, to: int = 0, source: int = 0, offset: int = 0, value: int = 0) -> bytes:
    """struct bpf_insn of linux/bpf.h."""
    return INSTRUCTION.pack(code, source << 4 | to, offset, value)


def load_program(
    name: str, program_type: int, code: bytes, attach_type: int = 0, attach_btf_id: int = 0
) -> int:
    """The fd of a program given as instructions, 8 bytes each."""
    opts = _load_opts(attach_type, attach_btf_id)
    result = _lib.bpf_prog_load(program_type, name.encode(), b"GPL", code, len(code) // 8, ct.byref(opts))
    return _check(result, f"load {name}")


def verifier_log(program_type: int, code: bytes, attach_type: int = 0, attach_btf_id: int = 0) -> str:
    """What the verifier says of a program."""
    buffer = ct.create_string_buffer(_LOG_BYTES)
    opts = _load_opts(attach_type, attach_btf_id)
    opts.log_level, opts.log_size, opts.log_buf = 1, _LOG_BYTES, ct.addressof(buffer)
    result = _lib.bpf_prog_load(program_type, b"licet_log", b"GPL", code, len(code) // 8, ct.byref(opts))
    if result >= 0:
        os.close(result)
    return buffer.value.decode(errors="replace")


def _load_opts(attach_type: int, attach_btf_id: int) -> _ProgramLoadOpts:
    return _ProgramLoadOpts(
        sz=ct.sizeof(_ProgramLoadOpts), expected_attach_type=attach_type, attach_btf_id=attach_btf_id
    )


def run_program(program_fd: int, repeat: int = 1) -> tuple[int, int]:
    """Runs a tc program on an empty packet; what it returned the last time, and ns for one run on average."""
    opts = _TestRunOpts(sz=ct.sizeof(_TestRunOpts), data_in=bytes(64), data_size_in=64, repeat=repeat)
    _check(_lib.bpf_prog_test_run_opts(program_fd, ct.byref(opts)), "run a program")
    return int(opts.retval), int(opts.duration)


def link_create(program_fd: int, target_fd: int, attach_type: int) -> int:
    result = _lib.bpf_link_create(program_fd, target_fd, attach_type, None)
    return _check(result, f"attach (type {attach_type})")


def link_update(link_fd: int, program_fd: int) -> None:
    _check(_lib.bpf_link_update(link_fd, program_fd, None), "replace the program of a link")


def raw_tracepoint_open(name: str | None, program_fd: int) -> int:
    """Attach to a raw tracepoint; name None attaches an fexit program where it was loaded for."""
    result = _lib.bpf_raw_tracepoint_open(name.encode() if name else None, program_fd)
    return _check(result, f"attach to {name or 'a function'}")


def open_kprobe_event(kind: int, config: int, function: str) -> int:
    """The fd of a perf event that runs where a kernel function does; perf_event_open(2), with kind and
    config from /sys/bus/event_source/devices/kprobe."""
    attr = _PerfEventAttr(
        type=kind, size=ct.sizeof(_PerfEventAttr), config=config, kprobe_func=function.encode()
    )
    number = _PERF_EVENT_OPEN[platform.machine()]
    # of no one process: on CPU 0, which for a kprobe means everywhere
    result = _libc.syscall(number, ct.byref(attr), -1, 0, -1, _PERF_FLAG_FD_CLOEXEC)
    return _check(result, f"probe {function}")


def enable_stats() -> int:
    """An fd; run-time statistics of all programs are on while it is open."""
    return _check(_lib.bpf_enable_stats(_BPF_STATS_RUN_TIME), "enable BPF statistics")


def is_same_map(a: int, b: int) -> bool:
    """Do two descriptors lead to one map?"""
    return bool(map_info(a).id == map_info(b).id)


def map_info(fd: int) -> MapInfo:
    info = MapInfo()
    size = ct.c_uint32(ct.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "map info")
    return info


def link_program(fd: int) -> int:
    """The id of the program that a link attaches."""
    info = _LinkInfo()
    size = ct.c_uint32(ct.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "link info")
    return int(info.program)


def program_info(fd: int) -> ProgramInfo:
    info = ProgramInfo()
    size = ct.c_uint32(ct.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "program info")
    return info


def program_maps(fd: int) -> frozenset[int]:
    """Ids of the maps that a program uses."""
    ids = (ct.c_uint32 * _MAX_PROGRAM_MAPS)()
    info = ProgramInfo(nr_map_ids=_MAX_PROGRAM_MAPS, map_ids=ct.addressof(ids))
    size = ct.c_uint32(ct.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "maps of a program")
    return frozenset(ids[: info.nr_map_ids])


def tcx_programs(interface: int) -> int:
    """How many tcx programs (Linux 6.6) are attached at ingress of an interface of the calling thread's
    network namespace; 0 where the kernel has none."""
    count = ct.c_uint32(0)
    result = _lib.bpf_prog_query(interface, TCX_INGRESS, 0, None, None, ct.byref(count))
    return count.value if result == 0 else 0


def cgroup_programs(cgroup: Path, attach_type: int) -> list[int]:
    """Ids of the programs that run at a hook for the processes of a cgroup, in their order: its own, then
    those of the cgroups above."""
    fd = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        ids, count = (ct.c_uint32 * _MAX_CGROUP_PROGRAMS)(), ct.c_uint32(_MAX_CGROUP_PROGRAMS)
        result = _lib.bpf_prog_query(fd, attach_type, _BPF_F_QUERY_EFFECTIVE, None, ids, ct.byref(count))
    finally:
        os.close(fd)
    _check(result, f"programs of {cgroup}")
    return list(ids[: count.value])


def open_program(number: int) -> int:
    """A new fd of the program with this id."""
    return _check(_lib.bpf_prog_get_fd_by_id(number), f"open program {number}")


def open_map(number: int, name: str) -> Map:
    """The map with this id, by a new fd."""
    return Map.from_fd(_check(_lib.bpf_map_get_fd_by_id(number), f"open map {number}"), name)


def all_programs() -> Iterator[int]:
    """An fd of each program in the kernel; who asks closes it."""
    number = ct.c_uint32(0)
    while _lib.bpf_prog_get_next_id(number.value, ct.byref(number)) == 0:
        fd = _lib.bpf_prog_get_fd_by_id(number.value)
        if fd >= 0:  # else it is gone
            yield fd


def map_create(
    map_type: int,
    name: str,
    key_size: int,
    value_size: int,
    max_entries: int,
    flags: int = 0,
    *,
    inner: int = 0,
    btf: tuple[int, int, int] = (0, 0, 0),
) -> int:
    """The fd of a new map. `inner`: of a map like those that go into it; `btf`: of the types, and the ids of
    key and value there."""
    opts = _MapCreateOpts(sz=ct.sizeof(_MapCreateOpts), map_flags=flags, inner_map_fd=inner)
    opts.btf_fd, opts.btf_key_type_id, opts.btf_value_type_id = btf
    result = _lib.bpf_map_create(
        map_type, name.encode()[:15], key_size, value_size, max_entries, ct.byref(opts)
    )
    return _check(result, f"create map {name}")


def wait_for_programs() -> None:
    """Until every run of a program that has begun before is over. The kernel does so after each change of a
    map of maps, so that nobody uses the inner map that was there (maybe_wait_bpf_programs in
    kernel/bpf/syscall.c)."""
    inner = map_create(BPF_MAP_TYPE_ARRAY, "licet_wait", 4, 8, 1)
    outer = map_create(BPF_MAP_TYPE_ARRAY_OF_MAPS, "licet_wait", 4, 4, 1, inner=inner)
    try:
        Map.from_fd(outer, "licet_wait").put(bytes(4), inner.to_bytes(4, sys.byteorder))
    finally:
        os.close(outer)
        os.close(inner)


def load_btf(types: bytes) -> int:
    """The fd of type information for maps."""
    return _check(_lib.bpf_btf_load(types, len(types), None), "load BTF")


def read_btf(number: int) -> bytes:
    """The type information of this id."""
    fd = _check(_lib.bpf_btf_get_fd_by_id(number), f"open BTF {number}")
    try:
        size = _btf_info(fd).btf_size
        content = ct.create_string_buffer(size)
        _btf_info(fd, ct.addressof(content), size)
        return content.raw
    finally:
        os.close(fd)


def _btf_info(fd: int, to: int = 0, room: int = 0) -> _BtfInfo:
    info = _BtfInfo(btf=to, btf_size=room)
    size = ct.c_uint32(ct.sizeof(info))
    _check(_lib.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "BTF info")
    return info


@dataclass(frozen=True, slots=True)
class Map:
    """One open map. Keys and values are bytes of exactly key_size and value_size; a per-CPU map's value
    is `cpus` values, each rounded up to 8 bytes."""

    fd: int
    name: str
    key_size: int
    value_size: int
    max_entries: int
    cpus: int = 1

    @classmethod
    def from_fd(cls, fd: int, name: str) -> Map:
        info = map_info(fd)
        per_cpu = info.type in (5, 6, 10)  # percpu_hash, percpu_array, lru_percpu_hash
        cpus = possible_cpus() if per_cpu else 1
        value_size = (info.value_size + 7) // 8 * 8 if per_cpu else info.value_size
        return cls(fd, name, info.key_size, value_size, info.max_entries, cpus)

    def close(self) -> None:
        os.close(self.fd)

    def get(self, key: bytes) -> bytes | None:
        return self._read(_lib.bpf_map_lookup_elem, key, f"look up in {self.name}")

    def take(self, key: bytes) -> bytes | None:
        """Delete it, and return just what was deleted; None where the key was not there. Hashes only."""
        return self._read(_lib.bpf_map_lookup_and_delete_elem, key, f"take from {self.name}")

    def _read(
        self, function: Callable[[int, bytes, ct.Array[ct.c_char]], int], key: bytes, what: str
    ) -> bytes | None:
        value = ct.create_string_buffer(self.value_size * self.cpus)
        result = function(self.fd, key, value)
        if result < 0 and ct.get_errno() == errno.ENOENT:
            return None
        _check(result, what)
        return value.raw

    def put(self, key: bytes, value: bytes, flags: int = BPF_ANY) -> None:
        _check(_lib.bpf_map_update_elem(self.fd, key, value, flags), f"update {self.name}")

    def remove(self, key: bytes) -> bool:
        """False where the key was not there."""
        result = _lib.bpf_map_delete_elem(self.fd, key)
        if result < 0 and ct.get_errno() == errno.ENOENT:
            return False
        _check(result, f"delete from {self.name}")
        return True

    def put_all(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Update in batches; raises OSError, E2BIG or ENOSPC where the map is full."""
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            count = ct.c_uint32(len(part))
            keys = b"".join(key for key, _ in part)
            values = b"".join(value for _, value in part)
            result = _lib.bpf_map_update_batch(self.fd, keys, values, ct.byref(count), None)
            _check(result, f"fill {self.name}")

    def __iter__(self) -> Iterator[bytes]:
        """Keys one by one; works for every map type. May repeat or miss what changes meanwhile."""
        following = ct.create_string_buffer(self.key_size)
        key: bytes | None = None
        while _lib.bpf_map_get_next_key(self.fd, key, following) == 0:
            key = following.raw
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, read in batches (hash and array types; Linux 5.6)."""
        size = self.value_size * self.cpus
        # a hash map's batch must hold the longest bucket: ENOSPC asks for a larger one
        room = min(self.max_entries, _BATCH)
        keys, values = ct.create_string_buffer(self.key_size * room), ct.create_string_buffer(size * room)
        cursor = ct.create_string_buffer(max(self.key_size, 8))
        first = True
        while True:
            count = ct.c_uint32(room)
            result = _lib.bpf_map_lookup_batch(
                self.fd, None if first else cursor, cursor, keys, values, ct.byref(count), None
            )
            done = result < 0 and ct.get_errno() == errno.ENOENT
            if result < 0 and not done:
                _check(result, f"read {self.name}")
            first = False
            raw_keys = keys.raw[: count.value * self.key_size]
            raw_values = values.raw[: count.value * size]
            for i in range(count.value):
                yield (
                    raw_keys[i * self.key_size : (i + 1) * self.key_size],
                    raw_values[i * size : (i + 1) * size],
                )
            if done:
                return


RECORDS_AT_ONCE = 64
_ENOUGH = -errno.EAGAIN


class RingReader:
    """Reads ring buffers, the first before the others. The kernel's callback only copies; `drain` hands the
    records over."""

    def __init__(self, map_fd: int, *others: int) -> None:
        self._pending: list[bytes] = []
        self._callback = _RING_CALLBACK(self._copy)
        self._ring = _lib.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise OSError(ct.get_errno(), "open the event ring")
        for other in others:
            _check(_lib.ring_buffer__add(self._ring, other, self._callback, None), "open the event ring")

    def _copy(self, _context: int, data: int, size: int) -> int:
        self._pending.append(ct.string_at(data, size))
        return 0 if len(self._pending) < RECORDS_AT_ONCE else _ENOUGH

    def fileno(self) -> int:
        """Readable when there are records."""
        return int(_lib.ring_buffer__epoll_fd(self._ring))

    def drain(self) -> list[bytes]:
        """At most RECORDS_AT_ONCE: who makes events faster than they are read would never let it end. What
        is left keeps fileno() readable."""
        read = _lib.ring_buffer__consume(self._ring)
        if len(self._pending) < RECORDS_AT_ONCE:
            _check(read, "read the event ring")
        records, self._pending = self._pending, []
        return records

    def drain_all(self) -> list[bytes]:
        """Until nothing is left: of rings that are not filled faster than they are read."""
        records: list[bytes] = []
        while part := self.drain():
            records += part
        return records

    def close(self) -> None:
        if self._ring:
            _lib.ring_buffer__free(self._ring)
            self._ring = None


BTF_KIND_STRUCT = 4
BTF_KIND_FUNC = 12
_COMPOSITE_KINDS = (4, 5)  # struct, union


class Btf:
    """Type information of the running kernel. Raises OSError where there is none."""

    def __init__(self) -> None:
        self._btf = _lib.btf__load_vmlinux_btf()
        if not self._btf:
            raise OSError(ct.get_errno() or errno.ENOENT, "the kernel has no BTF (/sys/kernel/btf/vmlinux)")

    def _type(self, type_id: int) -> tuple[int, int, int]:
        """(address of the type record, info word, size or type word)."""
        address = _lib.btf__type_by_id(self._btf, type_id)
        words = (ct.c_uint32 * 3).from_address(address)
        return address, words[1], words[2]

    def offset_of(self, struct_name: str, field: str) -> int | None:
        """Byte offset of a field, also inside anonymous structs and unions; None: no such field."""
        bits = self._bits_before(struct_name, field)
        return None if bits is None else bits // 8

    def bit_of(self, struct_name: str, field: str) -> int:
        """Where in its first byte a bit field starts, from the lowest bit; 0 for any other field."""
        return (self._bits_before(struct_name, field) or 0) % 8

    def _bits_before(self, struct_name: str, field: str) -> int | None:
        struct_id = _lib.btf__find_by_name_kind(self._btf, struct_name.encode(), BTF_KIND_STRUCT)
        return self._offset(struct_id, field) if struct_id > 0 else None

    def _offset(self, struct_id: int, field: str) -> int | None:
        address, info, _ = self._type(struct_id)
        bit_mask = 0xFFFFFF if info >> 31 else 0xFFFFFFFF
        for i in range(info & 0xFFFF):
            name_offset, type_id, bits = (ct.c_uint32 * 3).from_address(address + 12 + 12 * i)
            name = _lib.btf__name_by_offset(self._btf, name_offset).decode()
            start = bits & bit_mask
            if name == field:
                return int(start)
            if not name and (self._type(type_id)[1] >> 24) & 0x1F in _COMPOSITE_KINDS:
                inner = self._offset(type_id, field)
                if inner is not None:
                    return int(start) + inner
        return None

    def function_id(self, function: str) -> int | None:
        """BTF id of a kernel function; None: no such function."""
        found = _lib.btf__find_by_name_kind(self._btf, function.encode(), BTF_KIND_FUNC)
        return int(found) if found > 0 else None

    def parameters_of(self, function_id: int) -> int:
        """How many parameters a kernel function takes."""
        _, _, prototype = self._type(function_id)
        return self._type(prototype)[1] & 0xFFFF

    def close(self) -> None:
        if self._btf:
            _lib.btf__free(self._btf)
            self._btf = None
