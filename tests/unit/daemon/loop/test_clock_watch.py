"""What a move of license time starts: another compile, a stored file, an event. Each once."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from agent.daemon.licensing.time import LicenseTime
from agent.daemon.loop.clock_watch import ClockWatch
from agent.license.clock import RELEASED_NS, SECOND_NS, LicenseClock
from agent.model import HostFacts
from agent.observe.hostfacts import with_clock
from agent.state_files import State, kept_time

HOUR_S = 3600


@dataclass
class Keeper:
    facts: HostFacts | None = None


@dataclass
class Reports:
    told: list[object] = field(default_factory=list)

    def license_time(self, clock: LicenseClock) -> None:
        self.told.append(clock.is_off)

    def license_time_damaged(self, why: str) -> None:
        self.told.append(why)


class World:
    def __init__(self, folder: Path) -> None:
        self.up_s, self.wrong_s = 100.0, 0.0
        self.keeper, self.reports, self.wake = Keeper(), Reports(), asyncio.Event()
        self.time = LicenseTime(folder, read=self.read, boot=lambda: "a boot")
        self.watch = ClockWatch(self.time, State(folder), self.keeper, self.reports, self.wake)  # type: ignore[arg-type]
        self.compile()

    def read(self) -> tuple[int, int]:
        return int(self.up_s * SECOND_NS), RELEASED_NS + int((self.up_s + HOUR_S + self.wrong_s) * SECOND_NS)

    def compile(self) -> None:
        self.keeper.facts = with_clock(HostFacts(1, ()), self.time.look())

    def asks_to_compile(self, wrong_s: float, passes_s: float = 1.0) -> bool:
        """Whether the host is to be looked at once the clock is wrong by so much."""
        self.wrong_s, self.up_s = wrong_s, self.up_s + passes_s
        self.wake.clear()
        asyncio.run(self.watch.follow())
        return self.wake.is_set()


@pytest.fixture
def world(tmp_path: Path) -> World:
    return World(tmp_path)


def test_a_move_by_half_a_second_has_the_tables_compiled_and_is_stored(world: World, tmp_path: Path) -> None:
    assert not world.asks_to_compile(0)
    before = kept_time(tmp_path)
    assert not world.asks_to_compile(0.25)
    assert kept_time(tmp_path) == before
    assert world.asks_to_compile(0.75)
    assert kept_time(tmp_path) != before


def test_one_move_is_asked_for_once_though_compiling_fails(world: World) -> None:
    assert world.asks_to_compile(10)
    assert not world.asks_to_compile(10)
    assert world.asks_to_compile(20)
    world.compile()
    assert not world.asks_to_compile(20)


def test_a_wall_clock_behind_moves_no_deadline_and_one_ahead_moves_the_beginnings(world: World) -> None:
    assert not world.asks_to_compile(-200)
    assert not world.asks_to_compile(-100)
    assert world.asks_to_compile(9000)
    world.compile()
    assert world.asks_to_compile(18000)
    world.compile()
    assert world.asks_to_compile(0), "they go back with it"


def test_24_hours_behind_are_compiled_for_strict_documents(world: World) -> None:
    for _ in range(70):
        world.asks_to_compile(0, 60)  # what the boot took is proven
    assert world.time.now.taken is None
    world.compile()
    assert not world.asks_to_compile(-23 * HOUR_S)
    assert world.asks_to_compile(-25 * HOUR_S)


def test_off_and_no_longer_off_are_told_once_each(world: World) -> None:
    asyncio.run(_start(world.watch))
    for wrong_s in (0, 9000, 9100, 0, 0):
        world.asks_to_compile(wrong_s)
    assert world.reports.told == [True, False]


def test_what_is_wrong_at_a_start_is_told_then(tmp_path: Path) -> None:
    (tmp_path / "clock.json").write_text("{")
    world = World(tmp_path)
    world.wrong_s = 9000
    world.time.look()
    asyncio.run(_start(world.watch))
    assert [str(one)[:5] for one in world.reports.told] == [str(tmp_path)[:5], "True"]


async def _start(watch: ClockWatch) -> None:
    watch.start()
