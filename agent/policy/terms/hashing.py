"""The keyed hash by which the kernel identifies paths: the same words as bpf/lib/hash.h, in Python.

The kernel walks an executable's path from the leaf to the root, so a path is hashed in that order, component
by component. The key (HostFacts.hash_seed) is drawn at random when the programs are first loaded. So no user
can prepare two paths with one hash (bpf/lib/hash.h gives the reasons). Tests compare both sides.
"""

from __future__ import annotations

import struct
from functools import lru_cache

from agent.policy.terms.paths import Shape, Starred

_MASK = (1 << 64) - 1
_CHUNK_BYTES = 64
_NEXT_PLACE = 1

UNTRUSTED_NAME = 1
"""Bit 0 of an executable's hash: the path was seen in a mount namespace that an unprivileged user made. In
it, any file can get any name. Such a path matches no selector."""


class _Secret:
    """The secrets derived from a seed: struct hash_key in bpf/lib/hash.h."""

    __slots__ = ("first", "second", "seed")

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.first = _factor(seed + 0x9E3779B97F4A7C15)
        self.second = _factor(seed + 0x3C6EF372FE94F82A)

    def mix(self, state: int, word: int) -> int:
        product = (state ^ word) * self.first & _MASK
        return int.from_bytes(product.to_bytes(8, "little"), "big") * self.second & _MASK

    def mix_bytes(self, data: bytes) -> int:
        state = self.mix(self.seed, len(data))
        for (word,) in struct.iter_unpack("<Q", data + bytes(-len(data) % _CHUNK_BYTES)):
            state = self.mix(state, word)
        return state

    def component(self, name: str) -> int:
        return self.mix_bytes(name.encode("utf-8", "surrogateescape"))


def _factor(seed: int) -> int:
    """The finalizer of splitmix64."""
    seed &= _MASK
    seed = (seed ^ seed >> 30) * 0xBF58476D1CE4E5B9 & _MASK
    seed = (seed ^ seed >> 27) * 0x94D049BB133111EB & _MASK
    return (seed ^ seed >> 31) | 1


_secret = lru_cache(maxsize=8)(_Secret)


def path_hash(path: str, seed: int) -> int:
    """Hash of an absolute path, of a file or a directory, as the kernel computes it. Bit 0 is 0."""
    secret, state = _secret(seed), seed
    for component in reversed([part for part in path.split("/") if part]):
        state = secret.mix(state, secret.component(component))
    return state & ~UNTRUSTED_NAME


def template_hash(template: str, seed: int) -> int:
    """Hash of app@*.service, computed from the common part of all instances."""
    prefix, _, suffix = template.partition("*")
    return _secret(seed).mix(string_hash(prefix, seed), int.from_bytes(suffix.encode(), "little"))


def shape_hash(glob: Starred, seed: int) -> int:
    """Hash of all paths that a glob with one star matches; bpf/lib/glob.h computes the same for each of
    them."""
    secret = _secret(seed)
    number = secret.mix(seed, _NEXT_PLACE)
    whole = 0
    for place, component in enumerate(reversed(glob.components)):
        if place != glob.place:
            whole += secret.mix(secret.mix(number, secret.component(component)), number)
        number = secret.mix(number, _NEXT_PLACE)
    state = secret.mix(whole & _MASK, secret.component(glob.prefix + glob.suffix))
    return secret.mix(state, glob.shape.word)


def glob_of(path: str, shape: Shape) -> Starred | None:
    """The glob of this shape that matches the path; None if there is none."""
    components = [part.encode("utf-8", "surrogateescape") for part in path.split("/") if part]
    if shape.place >= len(components):
        return None
    name = components[-1 - shape.place]
    if len(name) < shape.prefix_bytes + shape.suffix_bytes:
        return None
    components[-1 - shape.place] = b""
    ends = (name[: shape.prefix_bytes], name[len(name) - shape.suffix_bytes :])
    texts = (part.decode("utf-8", "surrogateescape") for part in (*ends, *components))
    prefix, suffix, *rest = texts
    return Starred(tuple(rest), shape.place, prefix, suffix)


def string_hash(text: str, seed: int) -> int:
    """Hash of one string (a cgroup path) as a whole."""
    return _secret(seed).component(text)
