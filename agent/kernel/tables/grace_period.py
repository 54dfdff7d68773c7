"""Waits until no program uses an entry that was removed from a map. Standard library only."""

from __future__ import annotations

import os
import sys

from agent.kernel.uapi import MapType
from agent.system.bpf_map import Map, map_create


def wait_for_programs() -> None:
    """Wait until every program run that began before this call has ended. The kernel waits so after each
    change of a map of maps, so that no program uses the earlier inner map (maybe_wait_bpf_programs in
    kernel/bpf/syscall.c)."""
    inner = map_create(MapType.ARRAY, "licet_wait", 4, 8, 1)
    outer = map_create(MapType.ARRAY_OF_MAPS, "licet_wait", 4, 4, 1, inner=inner)
    try:
        Map.from_fd(outer, "licet_wait").put(bytes(4), inner.to_bytes(4, sys.byteorder))
    finally:
        os.close(outer)
        os.close(inner)
