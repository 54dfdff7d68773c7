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
"""What names may take here: all that the map has room for (8,192 of 252 bytes), and some longer ones."""
NO_NAME = 2
"""identity.exe up to here is no hash of a path (EXE_UNKNOWN of bpf/abi.h)."""
_OVERHEAD_BYTES = 200
"""Of a string and its place in a dict."""


class Names:
    """Paths of executables by the kernel's hash; what is learned is stored in the pinned map, so that the
    kernel does not tell it again and a restarted daemon still knows it.

    Anybody can run a new path each time: what is known here is bounded, and the longest known goes first.
    Safe to ask and to tell from several threads."""

    def __init__(self, stored: Map, seed: int, proc_exe: Callable[[int], str]) -> None:
        self._stored = stored
        self._seed = seed
        self._proc_exe = proc_exe
        self._known: dict[int, str] = {}
        self._bytes = 0
        self._lock = threading.Lock()

    def __getitem__(self, exe: int) -> str:
        """ "": none, or not known yet."""
        known = self._known.get(exe)
        if known is None:
            raw = self._stored.get(abi.U64.pack(exe))
            known = self._read(exe, abi.StoredName.from_buffer_copy(raw)) if raw else ""
            if known:
                self._remember(exe, known)
        return known

    def of_process(self, exe: int, pid: int) -> str:
        """The same; where it is not known, the path in /proc, if that is still this executable's."""
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
        """The kernel tells it anew when it sees it next."""
        self._stored.remove(abi.U64.pack(exe))
        with self._lock:
            self._bytes -= _size(self._known.pop(exe, None))

    def learn(self, event: abi.NameEvent) -> str:
        """Stores the path of a name event. Where a component was cut, it is the one in /proc, if it still is
        that process's; "…" stands for what is not known."""
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
        """The kernel's hash of a path that user space has read itself; 0 for none."""
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
        """Every path that is stored or known, but those seen in an untrusted mount namespace."""
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
    """Of executables whose name the kernel has sent, and nobody has read: it shall send them again."""
    for key, value in list(names.items()):
        if not abi.StoredName.from_buffer_copy(value).bytes:
            names.remove(key)
