"""BTF: type information of the kernel and of maps. Every function raises OSError with the kernel's errno.
Standard library only."""

from __future__ import annotations

import ctypes as ct
import errno
import os

from agent.system.libbpf import LIB, check

BTF_KIND_STRUCT = 4
BTF_KIND_FUNC = 12
_COMPOSITE_KINDS = (4, 5)  # struct, union (linux/btf.h)


class _BtfInfo(ct.Structure):
    """struct bpf_btf_info of linux/bpf.h, up to the size."""

    _fields_ = [("btf", ct.c_uint64), ("btf_size", ct.c_uint32), ("id", ct.c_uint32)]


LIB.btf__load_vmlinux_btf.restype = ct.c_void_p
LIB.btf__find_by_name_kind.argtypes = [ct.c_void_p, ct.c_char_p, ct.c_uint32]
LIB.btf__type_by_id.restype = ct.c_void_p
LIB.btf__type_by_id.argtypes = [ct.c_void_p, ct.c_uint32]
LIB.btf__name_by_offset.restype = ct.c_char_p
LIB.btf__name_by_offset.argtypes = [ct.c_void_p, ct.c_uint32]
LIB.btf__free.argtypes = [ct.c_void_p]
LIB.bpf_btf_load.argtypes = [ct.c_char_p, ct.c_size_t, ct.c_void_p]
LIB.bpf_btf_get_fd_by_id.argtypes = [ct.c_uint32]


def load_btf(types: bytes) -> int:
    """Load type information for maps; its fd."""
    return check(LIB.bpf_btf_load(types, len(types), None), "load BTF")


def read_btf(number: int) -> bytes:
    """The type information of this id."""
    fd = check(LIB.bpf_btf_get_fd_by_id(number), f"open BTF {number}")
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
    check(LIB.bpf_obj_get_info_by_fd(fd, ct.byref(info), ct.byref(size)), "BTF info")
    return info


class Btf:
    """Type information of the running kernel. Raises OSError if the kernel has none."""

    def __init__(self) -> None:
        self._btf = LIB.btf__load_vmlinux_btf()
        if not self._btf:
            raise OSError(ct.get_errno() or errno.ENOENT, "the kernel has no BTF (/sys/kernel/btf/vmlinux)")

    def _type(self, type_id: int) -> tuple[int, int, int]:
        """(address of the type record, info word, size or type word)."""
        address = LIB.btf__type_by_id(self._btf, type_id)
        words = (ct.c_uint32 * 3).from_address(address)
        return address, words[1], words[2]

    def offset_of(self, struct_name: str, field: str) -> int | None:
        """The byte offset of a field, also inside anonymous structs and unions; None: no such field."""
        bits = self._bits_before(struct_name, field)
        return None if bits is None else bits // 8

    def bit_of(self, struct_name: str, field: str) -> int:
        """The first bit of a bit field in its first byte, from the lowest bit; 0 for any other field."""
        return (self._bits_before(struct_name, field) or 0) % 8

    def _bits_before(self, struct_name: str, field: str) -> int | None:
        struct_id = LIB.btf__find_by_name_kind(self._btf, struct_name.encode(), BTF_KIND_STRUCT)
        return self._offset(struct_id, field) if struct_id > 0 else None

    def _offset(self, struct_id: int, field: str) -> int | None:
        address, info, _ = self._type(struct_id)
        bit_mask = 0xFFFFFF if info >> 31 else 0xFFFFFFFF
        for i in range(info & 0xFFFF):
            name_offset, type_id, bits = (ct.c_uint32 * 3).from_address(address + 12 + 12 * i)
            name = LIB.btf__name_by_offset(self._btf, name_offset).decode()
            start = bits & bit_mask
            if name == field:
                return int(start)
            if not name and (self._type(type_id)[1] >> 24) & 0x1F in _COMPOSITE_KINDS:
                inner = self._offset(type_id, field)
                if inner is not None:
                    return int(start) + inner
        return None

    def function_id(self, function: str) -> int | None:
        """The BTF id of a kernel function; None: no such function."""
        found = LIB.btf__find_by_name_kind(self._btf, function.encode(), BTF_KIND_FUNC)
        return int(found) if found > 0 else None

    def parameters_of(self, function_id: int) -> int:
        """The number of parameters of a kernel function."""
        _, _, prototype = self._type(function_id)
        return self._type(prototype)[1] & 0xFFFF

    def close(self) -> None:
        if self._btf:
            LIB.btf__free(self._btf)
            self._btf = None
