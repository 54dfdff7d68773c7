"""Waiting until no program uses any more what has been taken out of a map. Standard library only."""

from __future__ import annotations

import os
import sys

from agent.kernel.uapi import MapType
from agent.system.bpf_map import Map, map_create


def wait_for_programs() -> None:
    """Until every run of a program that has begun before is over. The kernel does so after each change of a
    map of maps, so that nobody uses the inner map that was there (maybe_wait_bpf_programs in
    kernel/bpf/syscall.c)."""
    inner = map_create(MapType.ARRAY, "licet_wait", 4, 8, 1)
    outer = map_create(MapType.ARRAY_OF_MAPS, "licet_wait", 4, 4, 1, inner=inner)
    try:
        Map.from_fd(outer, "licet_wait").put(bytes(4), inner.to_bytes(4, sys.byteorder))
    finally:
        os.close(outer)
        os.close(inner)
