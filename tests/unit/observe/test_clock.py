"""The offset that deadlines are compiled by: the wall clock, but not back once that was synchronised."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from agent.observe.clock import DeadlineClock, is_synchronised

HOUR_NS = 3600 * 10**9


@dataclass
class Host:
    offset_ns: int = 0
    synchronised: bool = False

    def clock(self, newest_ns: int | None = None) -> DeadlineClock:
        return DeadlineClock(
            newest_ns, read=lambda: self.offset_ns, is_synchronised=lambda: self.synchronised
        )


def test_before_it_is_synchronised_the_clock_is_followed_both_ways() -> None:
    host = Host()
    clock = host.clock()
    for offset_ns in (0, HOUR_NS, -HOUR_NS, 5):
        host.offset_ns = offset_ns
        assert clock.offset_ns() == offset_ns
    assert clock.newest_ns is None


def test_the_correction_at_the_first_synchronisation_counts() -> None:
    host = Host(offset_ns=10 * HOUR_NS)
    clock = host.clock()
    clock.offset_ns()
    host.offset_ns, host.synchronised = HOUR_NS, True
    assert clock.offset_ns() == HOUR_NS


@pytest.mark.parametrize("synchronised", [False, True])
def test_once_it_was_synchronised_it_never_goes_back(synchronised: bool) -> None:
    host = Host(offset_ns=5 * HOUR_NS, synchronised=True)
    clock = host.clock()
    clock.offset_ns()
    host.offset_ns, host.synchronised = HOUR_NS, synchronised
    assert clock.offset_ns() == 5 * HOUR_NS
    assert "set back by 14400 s" in clock.problem
    host.offset_ns = 6 * HOUR_NS
    assert clock.offset_ns() == 6 * HOUR_NS
    assert clock.problem == ""
    host.offset_ns = 5 * HOUR_NS
    assert clock.offset_ns() == 6 * HOUR_NS


def test_what_an_earlier_daemon_of_this_boot_has_seen_counts() -> None:
    host = Host(offset_ns=HOUR_NS)
    assert host.clock(newest_ns=2 * HOUR_NS).offset_ns() == 2 * HOUR_NS


def test_a_slew_is_no_trouble() -> None:
    host = Host(offset_ns=HOUR_NS, synchronised=True)
    clock = host.clock()
    clock.offset_ns()
    host.offset_ns -= 10**9
    clock.offset_ns()
    assert clock.problem == ""


def test_the_kernel_can_be_asked() -> None:
    assert is_synchronised() in (True, False)
