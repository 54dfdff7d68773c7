"""BPF maps: create, read, write, and query their properties. Every function raises OSError with the kernel's
errno. Standard library only."""

from __future__ import annotations

import ctypes as ct
import errno
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice

from agent.system.libbpf import LIB, check, possible_cpus

_BATCH = 4096
_READ_BATCH = 1024
"""Larger ones are no faster, and a batch of flows is in memory twice."""
_BATCH_BYTES = 1 << 20
"""A value of a per-CPU map has a part for each of possibly hundreds of processors."""


class MapInfo(ct.Structure):
    """struct bpf_map_info of linux/bpf.h, up to the last field that licet reads."""

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


LIB.bpf_map_lookup_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
LIB.bpf_map_lookup_and_delete_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
LIB.bpf_map_update_elem.argtypes = [ct.c_int, ct.c_char_p, ct.c_char_p, ct.c_uint64]
LIB.bpf_map_delete_elem.argtypes = [ct.c_int, ct.c_char_p]
LIB.bpf_map_get_next_key.argtypes = [ct.c_int, ct.c_char_p, ct.c_void_p]
LIB.bpf_map_update_batch.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_char_p,
    ct.POINTER(ct.c_uint32),
    ct.c_void_p,
]
LIB.bpf_map_lookup_batch.argtypes = [
    ct.c_int,
    ct.c_void_p,
    ct.c_void_p,
    ct.c_void_p,
    ct.c_void_p,
    ct.POINTER(ct.c_uint32),
    ct.c_void_p,
]
LIB.bpf_map_create.argtypes = [
    ct.c_int,
    ct.c_char_p,
    ct.c_uint32,
    ct.c_uint32,
    ct.c_uint32,
    ct.POINTER(_MapCreateOpts),
]
LIB.bpf_map_get_fd_by_id.argtypes = [ct.c_uint32]
LIB.libbpf_bpf_map_type_str.restype = ct.c_char_p
LIB.libbpf_bpf_map_type_str.argtypes = [ct.c_int]


def is_same_map(a: int, b: int) -> bool:
    """True if two descriptors refer to the same map."""
    return bool(map_info(a).id == map_info(b).id)


def map_info(fd: int) -> MapInfo:
    info = MapInfo()
    size = ct.c_uint32(ct.sizeof(info))
    check(LIB.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "map info")
    return info


def open_map(number: int, name: str) -> Map:
    """Open the map with this id, with a new fd."""
    return Map.from_fd(check(LIB.bpf_map_get_fd_by_id(number), f"open map {number}"), name)


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
    """The fd of a new map. `inner`: fd of a map with the shape of the inner maps. `btf`: fd of the BTF, and
    its type ids of key and value."""
    opts = _MapCreateOpts(sz=ct.sizeof(_MapCreateOpts), map_flags=flags, inner_map_fd=inner)
    opts.btf_fd, opts.btf_key_type_id, opts.btf_value_type_id = btf
    result = LIB.bpf_map_create(
        map_type, name.encode()[:15], key_size, value_size, max_entries, ct.byref(opts)
    )
    return check(result, f"create map {name}")


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
        per_cpu = b"percpu" in (LIB.libbpf_bpf_map_type_str(info.type) or b"")  # None: unknown to libbpf
        cpus = possible_cpus() if per_cpu else 1
        value_size = (info.value_size + 7) // 8 * 8 if per_cpu else info.value_size
        return cls(fd, name, info.key_size, value_size, info.max_entries, cpus)

    def close(self) -> None:
        os.close(self.fd)

    def get(self, key: bytes) -> bytes | None:
        return self._read(LIB.bpf_map_lookup_elem, key, f"look up in {self.name}")

    def take(self, key: bytes) -> bytes | None:
        """Delete an entry and return its value atomically; None if the key is missing. Hash maps only."""
        return self._read(LIB.bpf_map_lookup_and_delete_elem, key, f"take from {self.name}")

    def _read(
        self, function: Callable[[int, bytes, ct.Array[ct.c_char]], int], key: bytes, what: str
    ) -> bytes | None:
        value = ct.create_string_buffer(self.value_size * self.cpus)
        result = function(self.fd, key, value)
        if result < 0 and ct.get_errno() == errno.ENOENT:
            return None
        check(result, what)
        return value.raw

    def put(self, key: bytes, value: bytes, flags: int = 0) -> None:
        check(LIB.bpf_map_update_elem(self.fd, key, value, flags), f"update {self.name}")

    def remove(self, key: bytes) -> bool:
        """Delete an entry. False if the key is missing."""
        result = LIB.bpf_map_delete_elem(self.fd, key)
        if result < 0 and ct.get_errno() == errno.ENOENT:
            return False
        check(result, f"delete from {self.name}")
        return True

    def put_all(self, pairs: list[tuple[bytes, bytes]]) -> None:
        """Update in batches. Raises OSError; E2BIG or ENOSPC if the map is full."""
        for start in range(0, len(pairs), _BATCH):
            part = pairs[start : start + _BATCH]
            count = ct.c_uint32(len(part))
            keys = b"".join(key for key, _ in part)
            values = b"".join(value for _, value in part)
            result = LIB.bpf_map_update_batch(self.fd, keys, values, ct.byref(count), None)
            check(result, f"fill {self.name}")

    def __iter__(self) -> Iterator[bytes]:
        """Keys one by one; works for every map type. May repeat or miss entries that change meanwhile."""
        following = ct.create_string_buffer(self.key_size)
        key: bytes | None = None
        while LIB.bpf_map_get_next_key(self.fd, key, following) == 0:
            key = following.raw
            yield key

    def first(self, count: int) -> Iterator[bytes]:
        """The first values of an array, read in batches (per-CPU arrays: Linux 5.13)."""
        size = self.value_size * self.cpus
        batches = self.batches(min(count, max(1, _BATCH_BYTES // size)))
        each = (
            values[begin : begin + size] for _, values in batches for begin in range(0, len(values), size)
        )
        return islice(each, count)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries, read in batches (hash and array types; Linux 5.6)."""
        size = self.value_size * self.cpus
        for keys, values in self.batches():
            for i in range(len(values) // size):
                yield (
                    keys[i * self.key_size : (i + 1) * self.key_size],
                    values[i * size : (i + 1) * size],
                )

    def batches(self, most: int = _READ_BATCH) -> Iterator[tuple[bytes, bytes]]:
        """All entries as the kernel returns them: keys one after the other, and their values alike."""
        size = self.value_size * self.cpus
        # a batch must hold the longest bucket of a hash map; the kernel returns ENOSPC if it is too small
        room = min(self.max_entries, most)
        keys, values = ct.create_string_buffer(self.key_size * room), ct.create_string_buffer(size * room)
        cursor = ct.create_string_buffer(max(self.key_size, 8))
        first = True
        while True:
            count = ct.c_uint32(room)
            result = LIB.bpf_map_lookup_batch(
                self.fd, None if first else cursor, cursor, keys, values, ct.byref(count), None
            )
            done = result < 0 and ct.get_errno() == errno.ENOENT
            if result < 0 and not done:
                check(result, f"read {self.name}")
            first = False
            yield ct.string_at(keys, count.value * self.key_size), ct.string_at(values, count.value * size)
            if done:
                return
