"""BPF ring buffers. Standard library only."""

from __future__ import annotations

import ctypes as ct
import errno

from agent.system.libbpf import LIB, check

_RING_CALLBACK = ct.CFUNCTYPE(ct.c_int, ct.c_void_p, ct.c_void_p, ct.c_size_t)


LIB.ring_buffer__new.restype = ct.c_void_p
LIB.ring_buffer__new.argtypes = [ct.c_int, _RING_CALLBACK, ct.c_void_p, ct.c_void_p]
LIB.ring_buffer__add.argtypes = [ct.c_void_p, ct.c_int, _RING_CALLBACK, ct.c_void_p]
LIB.ring_buffer__consume.argtypes = [ct.c_void_p]
LIB.ring_buffer__epoll_fd.argtypes = [ct.c_void_p]
LIB.ring_buffer__free.argtypes = [ct.c_void_p]


RECORDS_AT_ONCE = 64
_ENOUGH = -errno.EAGAIN


class RingReader:
    """Reads ring buffers, the first before the others. The callback of libbpf only copies records; `drain`
    returns them."""

    def __init__(self, map_fd: int, *others: int) -> None:
        self._pending: list[bytes] = []
        self._callback = _RING_CALLBACK(self._copy)
        self._ring = LIB.ring_buffer__new(map_fd, self._callback, None, None)
        if not self._ring:
            raise OSError(ct.get_errno(), "open the event ring")
        for other in others:
            check(LIB.ring_buffer__add(self._ring, other, self._callback, None), "open the event ring")

    def _copy(self, _context: int, data: int, size: int) -> int:
        self._pending.append(ct.string_at(data, size))
        return 0 if len(self._pending) < RECORDS_AT_ONCE else _ENOUGH

    def fileno(self) -> int:
        """An epoll fd, readable while the rings have records."""
        return int(LIB.ring_buffer__epoll_fd(self._ring))

    def drain(self) -> list[bytes]:
        """Read at most RECORDS_AT_ONCE records. Without a limit, a process that causes events faster than
        they are read would never let it end. The remaining records keep fileno() readable."""
        read = LIB.ring_buffer__consume(self._ring)
        if len(self._pending) < RECORDS_AT_ONCE:
            check(read, "read the event ring")
        records, self._pending = self._pending, []
        return records

    def drain_all(self) -> list[bytes]:
        """Read until the rings are empty. Only for rings that are not filled faster than they are read."""
        records: list[bytes] = []
        while part := self.drain():
            records += part
        return records

    def close(self) -> None:
        if self._ring:
            LIB.ring_buffer__free(self._ring)
            self._ring = None
