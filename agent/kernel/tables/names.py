"""Paths of executables by the kernel's hash of them: the pinned map `names`."""

from __future__ import annotations

import ctypes as ct
import threading
from collections.abc import Callable

from agent import abi
from agent.kernel.tables import ring
from agent.kernel.tables.hash_of_abi_1 import path_hash_of_abi_1
from agent.model import MEMFD
from agent.policy.terms.hashing import UNTRUSTED_NAME, path_hash
from agent.system.bpf_map import Map

KNOWN_BYTES = 4 << 20
"""The memory limit for names: a full map (8,192 names of 252 bytes), and some longer names."""
NO_NAME = 2
"""identity.exe up to this value is not a hash of a path (EXE_UNKNOWN of bpf/abi.h)."""
_OVERHEAD_BYTES = 200
"""The overhead of a string and its dict entry."""


class Names:
    """Paths of executables by the kernel's hash. Each new path is stored in the pinned map. So the kernel
    does not send it again, and a restarted daemon still knows it.

    Any user can run a new path each time, so the cache in memory is bounded. The oldest entry is deleted
    first. Thread-safe."""

    def __init__(self, stored: Map, seed: int, proc_exe: Callable[[int], str]) -> None:
        self._stored = stored
        self._seed = seed
        self._proc_exe = proc_exe
        self._known: dict[int, str] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, exe: int) -> str:
        """ "": the executable has no path, or the path is not known yet."""
        known = self._known.get(exe)
        if known is None:
            raw = self._stored.get(abi.U64.pack(exe))
            known = self._read(exe, abi.StoredName.from_buffer_copy(raw)) if raw else ""
            if known:
                self._remember(exe, known)
        return known

    def of_process(self, exe: int, pid: int) -> str:
        """The path of an executable. If it is not known, the path in /proc, if its hash is still `exe`."""
        known = self[exe]
        if known or exe <= NO_NAME:
            return known
        live = self._proc_exe(pid)
        if not live or self._differs(live, exe):
            return ""
        self._store(exe, live)
        return live

    def _read(self, exe: int, name: abi.StoredName) -> str:
        path = bytes(name.text[: name.bytes]).decode("utf-8", "surrogateescape")
        is_whole = not path or path == MEMFD or "…" in (path[0], path[-1])
        return path if is_whole or not self._differs(path, exe) else path + "…"

    def _remember(self, exe: int, path: str) -> None:
        with self._lock:
            self._bytes += _size(path) - _size(self._known.get(exe))
            self._known[exe] = path
            while self._bytes > KNOWN_BYTES:
                oldest = next(iter(self._known))
                self._bytes -= _size(self._known.pop(oldest))

    def forget(self, exe: int) -> None:
        """Delete the name. The kernel sends it again when the executable runs next."""
        self._stored.remove(abi.U64.pack(exe))
        with self._lock:
            self._bytes -= _size(self._known.pop(exe, None))

    def learn(self, event: abi.NameEvent) -> str:
        """Store the path of a name event; return it. If a component was cut, use the path in /proc, if it has
        the same hash. "…" stands for an unknown part."""
        path = ring.path_of(event)
        if path == "/":
            path = MEMFD
        elif self._differs(path, event.exe):
            live = self._proc_exe(event.pid)
            if live and not self._differs(live, event.exe):
                path = live
            else:
                path = f"…{path}" if ring.may_be_deeper(event) else f"{path}…"
        self._store(event.exe, path)
        return path

    def note(self, path: str) -> int:
        """Store a path that user space has read itself; return the kernel's hash of it, 0 for an empty
        path."""
        if not path:
            return 0
        exe = path_hash(path, self._seed)
        if self[exe] != path:
            self._store(exe, path)
        return exe

    def _store(self, exe: int, path: str) -> None:
        self._remember(exe, path)
        text = path.encode("utf-8", "surrogateescape")[: abi.EXE_NAME_BYTES]
        name = abi.StoredName(bytes=len(text))
        ct.memmove(name.text, text, len(text))
        self._stored.put(abi.U64.pack(exe), bytes(name))

    def _differs(self, path: str, exe: int) -> bool:
        plain = exe & ~UNTRUSTED_NAME
        return plain not in (path_hash(path, self._seed), path_hash_of_abi_1(path, self._seed))

    def trusted_paths(self) -> frozenset[str]:
        """Every stored or cached path, except those seen in an untrusted mount namespace."""
        for key in self._stored:
            self[abi.U64.unpack(key)[0]]
        with self._lock:
            known = list(self._known.items())
        return frozenset(
            path
            for exe, path in known
            if not exe & UNTRUSTED_NAME and path.startswith("/") and not path.endswith("…")
        )


def _size(path: str | None) -> int:
    return 0 if path is None else len(path) + _OVERHEAD_BYTES


def forget_untold(names: Map) -> None:
    """Delete names that the kernel has sent but no daemon has read, so that the kernel sends them again."""
    for key, value in list(names.items()):
        if not abi.StoredName.from_buffer_copy(value).bytes:
            names.remove(key)
