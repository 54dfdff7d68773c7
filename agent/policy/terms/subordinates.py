"""Ranges of subordinate ids (subuid(5)) as aligned blocks, for a longest-prefix table."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Iterator
from itertools import pairwise

Block = tuple[int, int]
"""A prefix: the first id, and how many of the 32 bits all ids of the block share."""


def blocks_of(ranges: Iterable[tuple[range, int]]) -> dict[Block, int]:
    """Disjoint blocks that cover the ranges. Each has the bits of all ranges that it lies in."""
    given = [(ids, bits) for ids, bits in ranges if ids and bits]
    edges = sorted({edge for ids, _ in given for edge in (ids.start, ids.stop)})
    between = [0] * len(edges)
    for ids, bits in given:
        for place in range(bisect_left(edges, ids.start), bisect_left(edges, ids.stop)):
            between[place] |= bits
    joined = [place for place, bits in enumerate(between) if not place or bits != between[place - 1]]
    return {
        block: between[place]
        for place, following in pairwise(joined)
        if between[place]
        for block in _blocks(edges[place], edges[following])
    }


def blocks_with(number: int) -> Iterator[Block]:
    """Every block that contains an id, longest prefix first."""
    for prefixlen in range(32, -1, -1):
        yield number >> (32 - prefixlen) << (32 - prefixlen), prefixlen


def _blocks(first: int, end: int) -> Iterator[Block]:
    while first < end:
        aligned = first & -first or 1 << 32
        size = min(aligned, 1 << (end - first).bit_length() - 1)
        yield first, 33 - size.bit_length()
        first += size
