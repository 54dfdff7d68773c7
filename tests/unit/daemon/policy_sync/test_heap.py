from __future__ import annotations

import gc
import os
from pathlib import Path

import pytest

from agent.daemon.policy_sync.heap import LOOKED_AT_EACH, Heap


class Node:
    def __init__(self) -> None:
        self.itself = self


def test_what_is_made_inside_is_not_looked_at_again() -> None:
    heap = Heap()
    try:
        with heap.filled():
            assert not gc.isenabled()
            kept = [[number] for number in range(1000)]
        assert gc.isenabled()
        assert not any(one is kept[0] for one in gc.get_objects())
    finally:
        gc.unfreeze()


def test_a_failure_leaves_the_collector_on_and_keeps_nothing() -> None:
    heap = Heap()
    made: list[list[object]] = []

    def fail() -> None:
        with heap.filled():
            made.append([[]])
            raise ValueError("bad")

    with pytest.raises(ValueError, match="bad"):
        fail()
    assert gc.isenabled()
    assert any(one is made[0] for one in gc.get_objects())


def test_cycles_that_others_made_meanwhile_go_in_the_end() -> None:
    heap = Heap()
    try:
        with heap.filled():
            Node()
        for _ in range(LOOKED_AT_EACH):
            with heap.filled():
                pass
        assert not any(isinstance(one, Node) for one in gc.get_objects())
        gc.unfreeze()
        assert not any(isinstance(one, Node) for one in gc.get_objects())
    finally:
        gc.unfreeze()


def _resident_mb() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") >> 20


def test_memory_between_blocks_in_use_is_given_back() -> None:
    heap, before = Heap(), _resident_mb()
    try:
        with heap.filled():
            made = [bytes(2000) for _ in range(50_000)]
        full = _resident_mb()
        assert full > before + 80
        with heap.filled():
            made = made[-1:]  # the end of the heap stays in use
        assert made
        assert _resident_mb() < full - 60
    finally:
        gc.unfreeze()
