"""A descriptor that tells when the wall clock was set. That it does is tested where the clock may be set: in
the virtual machine (tests/kernel/test_clock_set.py)."""

from __future__ import annotations

import select
from pathlib import Path

import pytest

from agent.system import clock_set
from agent.system.clock_set import ClockSet


def test_the_kernel_cancels_the_timer_when_the_clock_is_set() -> None:
    clock = ClockSet()
    descriptor = clock.fileno()
    assert descriptor is not None
    about = dict(
        line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{descriptor}").read_text().splitlines()
    )
    absolute, cancel_on_set, realtime = 1, 2, 0
    assert int(about["settime flags"], 8) == absolute | cancel_on_set
    assert int(about["clockid"]) == realtime
    assert int(about["it_value"].strip(" (").split(",")[0]) > 200 * 365 * 86400, "it never comes by itself"
    clock.close()


def test_nothing_is_told_while_nobody_sets_it() -> None:
    clock = ClockSet()
    assert not clock.was_set()
    assert select.select([clock.fileno()], [], [], 0)[0] == []
    clock.close()
    assert clock.fileno() is None
    clock.close()


@pytest.mark.parametrize("lacks", ["timerfd_create", "timerfd_settime"])
def test_a_kernel_without_it_is_looked_at_from_time_to_time(
    monkeypatch: pytest.MonkeyPatch, lacks: str
) -> None:
    library = clock_set._libc()

    class Without:
        def __getattr__(self, name: str) -> object:
            return (lambda *_: -1) if name == lacks else getattr(library, name)

    monkeypatch.setattr(clock_set, "_libc", Without)
    clock = ClockSet()
    assert clock.fileno() is None
    assert not clock.was_set()
    clock.close()
