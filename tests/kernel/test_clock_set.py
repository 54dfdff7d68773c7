"""The kernel tells at once when the wall clock is set, and only then."""

from __future__ import annotations

import ctypes
import select
from collections.abc import Iterator

import pytest

from agent.system.clock_set import ClockSet
from tests.fixtures.hosts_clock import ONLY_IN_A_GUEST, restored, shift

pytestmark = [pytest.mark.root, ONLY_IN_A_GUEST]
ADJ_OFFSET_SINGLESHOT = 0x8001  # linux/timex.h


@pytest.fixture
def clock() -> Iterator[ClockSet]:
    made = ClockSet()
    with restored():
        yield made
    made.close()


def is_told(clock: ClockSet, within_s: float) -> bool:
    return bool(select.select([clock.fileno()], [], [], within_s)[0])


@pytest.mark.parametrize("seconds", [3600, -3600, 5 * 365 * 86400, 0.001])
def test_each_setting_is_told_once(clock: ClockSet, seconds: float) -> None:
    assert not is_told(clock, 0)
    for _ in range(3):
        shift(seconds)
        assert is_told(clock, 10)
        assert clock.was_set()
        assert not clock.was_set()
        assert not is_told(clock, 0)


def test_slewing_is_not_told(clock: ClockSet) -> None:
    class Timex(ctypes.Structure):
        _fields_ = (("modes", ctypes.c_uint32), ("offset", ctypes.c_long), ("rest", ctypes.c_uint8 * 192))

    asked = Timex(modes=ADJ_OFFSET_SINGLESHOT, offset=500)
    assert ctypes.CDLL(None).adjtimex(ctypes.byref(asked)) >= 0
    assert not is_told(clock, 2)
