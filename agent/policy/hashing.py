"""The keyed hash by which the kernel knows paths: the same words as bpf/identity.h, in Python.

The kernel walks an executable's path from the leaf to the root, so a path is hashed in that order,
component by component. The key (HostFacts.hash_seed) is drawn at random when the programs are first
loaded, so that nobody can prepare two paths with one hash. Tests hold both sides equal.
"""

from __future__ import annotations

import struct

_MULTIPLIER = 0x9FB21C651E98DF25
_MASK = (1 << 64) - 1
_CHUNK_BYTES = 64

UNTRUSTED_NAME = 1
"""Bit 0 of an executable's hash: the path was seen in a mount namespace that an unprivileged user made,
where anybody can give any file any name. Such a path matches no selector."""


def _mix(state: int, word: int) -> int:
    state = ((state ^ word) * _MULTIPLIER) & _MASK
    return state ^ (state >> 32)


def _mix_bytes(state: int, data: bytes) -> int:
    state = _mix(state, len(data))
    for (word,) in struct.iter_unpack("<Q", data + bytes(-len(data) % _CHUNK_BYTES)):
        state = _mix(state, word)
    return state


def path_hash(path: str, seed: int) -> int:
    """Hash of an absolute path, of a file or a directory, as the kernel computes it. Bit 0 is 0."""
    state = seed
    for component in reversed([part for part in path.split("/") if part]):
        state = _mix(state, _mix_bytes(seed, component.encode("utf-8", "surrogateescape")))
    return state & ~UNTRUSTED_NAME


def string_hash(text: str, seed: int) -> int:
    """Hash of one string (a cgroup path) as a whole."""
    return _mix_bytes(seed, text.encode("utf-8", "surrogateescape"))
