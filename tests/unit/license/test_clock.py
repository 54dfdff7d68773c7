"""License time, to the minute: what a clock that is wrong, set, dead or asleep does to it, and costs."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent import RELEASED
from agent.license.clock import HOUR_NS, LicenseClock
from tests.fixtures.license_clock import START, Host

MINUTE, HOUR, DAY = 60, 3600, 86400
YEAR = timedelta(days=365)
IN_2031 = datetime(2031, 5, 1, tzinfo=UTC)
IN_1970 = datetime(1970, 1, 1, tzinfo=UTC)


@pytest.fixture
def host() -> Host:
    """One that has been up for two hours with a right clock."""
    up = Host()
    up.runs(2 * HOUR)
    assert (up.error_s, up.clock.taken, up.clock.is_confirmed) == (0, None, True)
    return up


def test_set_back_a_year_it_runs_on(host: Host) -> None:
    host.set(START - YEAR)
    assert host.error_s == 0
    host.runs(3 * HOUR)
    host.restarts()
    host.runs(3 * HOUR)
    assert host.error_s == 0
    assert host.clock.is_off
    assert host.clock.strict_rollback
    assert "the wall clock is 365 days behind license time" in host.clock.problem
    host.set(None)
    assert (host.error_s, host.clock.problem, host.clock.strict_rollback) == (0, "", False)


def test_set_back_a_year_a_reboot_continues_from_the_stored_time(host: Host) -> None:
    host.set(host.true - YEAR)
    host.reboots(timedelta(minutes=3), host.true - YEAR)
    assert host.error_s == -3 * MINUTE
    host.runs(2 * HOUR)
    assert host.error_s == -3 * MINUTE
    host.set(None)
    assert host.error_s == 0, "three minutes are followed at once"


def test_forward_five_years_for_ten_minutes_costs_nothing(host: Host) -> None:
    host.set(host.true + 5 * YEAR)
    assert host.error_s == 0
    host.runs(10 * MINUTE)
    assert (host.error_s, host.clock.is_off) == (0, True)
    assert "ahead of license time" in host.clock.problem
    host.restarts()
    host.set(None)
    host.runs(2 * HOUR)
    assert (host.error_s, host.clock.problem) == (0, "")
    host.reboots()
    assert host.error_s == 0


def test_forward_five_years_for_an_hour_is_believed_at_that_minute(host: Host) -> None:
    host.set(host.true + 5 * YEAR)
    host.runs(HOUR - 30)
    assert host.error_s == 0
    host.runs(30)
    assert host.error_s == (5 * YEAR).total_seconds()


def test_of_a_lead_that_changes_the_least_is_believed(host: Host) -> None:
    for days in (20, 3, 700):
        host.set(host.true + timedelta(days=days))
        host.runs(20 * MINUTE)
    assert host.error_s == 3 * DAY


def test_an_interruption_begins_the_hour_anew(host: Host) -> None:
    host.set(host.true + YEAR)
    host.runs(50 * MINUTE)
    host.set(None)
    host.set(host.true + YEAR)
    host.runs(59 * MINUTE)
    assert host.error_s == 0
    host.runs(MINUTE)
    assert host.error_s == YEAR.total_seconds()


@pytest.mark.parametrize("restarts", [False, True])
def test_forward_five_years_at_a_boot_holds_only_while_it_is_wrong(host: Host, restarts: bool) -> None:
    host.reboots(shown=host.true + 5 * YEAR)
    assert round(host.error_s / DAY) == 5 * 365
    host.runs(10 * MINUTE)
    if restarts:
        host.restarts()
        assert round(host.error_s / DAY) == 5 * 365
    host.set(None)
    assert (host.error_s, host.clock.problem) == (0, "")
    host.runs(2 * HOUR)
    assert host.error_s == 0
    host.reboots()
    assert host.error_s == 0


def test_corrected_while_no_daemon_ran_it_costs_nothing_either(host: Host) -> None:
    host.reboots(shown=host.true + 5 * YEAR)
    host.runs(10 * MINUTE)
    host.stops()
    host.passes(HOUR)
    host.wrong_s = 0
    host.starts()
    assert host.error_s == 0


def test_what_a_boot_took_wrongly_is_not_kept_for_the_next(host: Host) -> None:
    host.reboots(shown=host.true + 5 * YEAR)
    host.runs(59 * MINUTE)
    host.reboots(timedelta(minutes=1), IN_1970)
    assert host.error_s == -2 * MINUTE, "two minutes without a daemon: the boot before, and this one"


def test_what_a_boot_took_is_kept_after_an_hour(host: Host) -> None:
    host.reboots(timedelta(days=30))
    host.runs(59 * MINUTE)
    assert host.clock.taken
    host.runs(MINUTE)
    assert host.clock.taken is None
    host.reboots(timedelta(minutes=1), IN_1970)
    assert host.error_s == -MINUTE


def test_a_small_correction_gives_nothing_up(host: Host) -> None:
    host.reboots(timedelta(days=30), host.true + timedelta(days=30, minutes=4))
    host.set(None)
    host.runs(59 * MINUTE)
    assert host.clock.taken
    host.runs(MINUTE)
    assert (host.clock.taken, host.error_s) == (None, 4 * MINUTE)


def test_what_is_given_up_falls_to_the_wall_clock_and_not_below_the_firm_time(host: Host) -> None:
    host.reboots(timedelta(days=30), IN_2031)
    host.set(host.true - timedelta(days=10))
    assert host.error_s == -10 * DAY
    host.set(host.true - timedelta(days=90))
    assert host.error_s == -30 * DAY


def test_a_clock_before_the_release_corrects_nothing(host: Host) -> None:
    """A process that sets the clock to 1970 within the first hour takes nothing back."""
    host.reboots(timedelta(days=30))
    host.set(IN_1970)
    assert host.error_s == 0
    host.set(RELEASED - timedelta(seconds=1))
    assert host.error_s == 0


def test_a_dead_rtc_in_1970_continues_from_the_stored_time(host: Host) -> None:
    host.reboots(timedelta(days=60), IN_1970)
    assert host.error_s == -60 * DAY
    assert (host.clock.is_confirmed, host.clock.strict_rollback) == (False, True)
    host.runs(MINUTE)
    host.set(None)
    assert (host.error_s, host.clock.is_confirmed) == (-60 * DAY, True)
    assert host.clock.moment(host.boot_ns).later == host.true, "starts_at goes by it"
    host.runs(59 * MINUTE)
    assert host.error_s == -60 * DAY
    host.runs(MINUTE)
    assert (host.error_s, host.clock.problem) == (0, "")
    host.reboots()
    assert host.error_s == 0


def test_a_dead_rtc_in_2031_is_believed_until_a_time_service_corrects_it(host: Host) -> None:
    host.reboots(timedelta(days=60), IN_2031)
    assert host.license_time == IN_2031
    host.runs(MINUTE)
    host.set(None)
    assert (host.error_s, host.clock.is_confirmed) == (0, True)
    host.runs(HOUR - 30)
    assert host.clock.taken
    host.runs(30)
    assert host.clock.taken is None


def test_the_first_start_of_all_takes_the_wall_clock_or_the_release() -> None:
    assert Host().error_s == 0
    dead = Host(wrong_s=(IN_1970 - START).total_seconds())
    assert dead.license_time == RELEASED
    assert not dead.clock.is_confirmed


@pytest.mark.parametrize("asleep", [timedelta(minutes=3), timedelta(days=9)])
def test_suspended_it_runs_on(host: Host, asleep: timedelta) -> None:
    host.passes(asleep.total_seconds())
    host.look()
    assert (host.error_s, host.clock.problem) == (0, "")
    host.set(host.true - YEAR)
    host.passes(asleep.total_seconds())
    host.look()
    assert host.error_s == 0


def test_a_clock_that_a_suspend_has_thrown_off_is_followed_only_a_little(host: Host) -> None:
    host.passes(9 * DAY)
    host.set(host.true + timedelta(seconds=3))
    assert host.error_s == 3
    host.passes(9 * DAY)
    host.set(host.true + timedelta(days=2))
    assert host.error_s == 3


@pytest.mark.parametrize("gap", ["restarts", "passes"])
def test_time_that_nobody_saw_proves_nothing(host: Host, gap: str) -> None:
    host.set(host.true + YEAR)
    host.runs(30 * MINUTE)
    getattr(host, gap)(9 * HOUR)
    host.look()
    assert host.error_s == 0
    host.runs(30 * MINUTE - 30)
    assert host.error_s == 0
    host.runs(30)
    assert host.error_s == YEAR.total_seconds(), "the gap has not ended what was seen before it"


def test_time_that_nobody_saw_makes_nothing_firm(host: Host) -> None:
    host.reboots(timedelta(days=30))
    host.runs(30 * MINUTE)
    host.restarts(9 * HOUR)
    assert host.clock.taken
    host.runs(30 * MINUTE)
    assert host.clock.taken is None


def test_five_minutes_are_followed_at_once_and_not_twice_in_an_hour(host: Host) -> None:
    host.set(host.true + timedelta(minutes=5))
    assert host.error_s == 5 * MINUTE
    host.set(host.true + timedelta(minutes=10))
    host.runs(59 * MINUTE)
    assert host.error_s == 5 * MINUTE
    host.runs(2 * MINUTE)
    assert host.error_s == 10 * MINUTE


@pytest.mark.parametrize("restarts", [False, True])
def test_nothing_walks_it_forward(host: Host, restarts: bool) -> None:
    """A clock that is always a little ahead of what was last believed, and right in between."""
    for _ in range(6 * 60):
        host.set(host.license_time + timedelta(seconds=30))
        if restarts:
            host.restarts()
        host.set(None)
        host.runs(30)
    assert host.error_s <= 5 * MINUTE * 4


def test_a_slewed_clock_is_followed_to_the_millisecond(host: Host) -> None:
    for _ in range(200):
        host.wrong_s += 0.0005 * 30  # 500 ppm, the kernel's fastest
        host.runs(30)
        assert abs(host.clock.wall_lead_ns) < 1_000_000
    for _ in range(20):
        host.wrong_s -= 0.0005 * 30
        host.runs(30)
    assert host.error_s == pytest.approx(3.0, abs=0.001), "it has not gone back"


def test_a_boot_clock_that_went_back_within_a_boot_is_another_boots(host: Host) -> None:
    """A copy of the file came back with a restored machine: what it says is the least."""
    host.stops()
    before = host.license_time
    host.up_s -= 1000
    host.wrong_s = (IN_1970 - host.true).total_seconds()
    host.starts()
    assert host.license_time == before


def test_24_hours_behind_is_a_rollback_for_strict_documents_only_beyond(host: Host) -> None:
    host.set(host.true - timedelta(hours=24))
    assert not host.clock.strict_rollback
    host.set(host.true - timedelta(hours=24, seconds=1))
    assert host.clock.strict_rollback


@pytest.mark.parametrize("wall_ns", [-(10**30), 0, 10**30])
def test_no_wall_clock_is_too_strange(wall_ns: int) -> None:
    clock = LicenseClock.started("b", 5, wall_ns).looked(HOUR_NS, -wall_ns).looked(2 * HOUR_NS, wall_ns)
    assert RELEASED <= clock.moment(2 * HOUR_NS).license <= datetime(2262, 4, 11, 23, 47, 17, tzinfo=UTC)
    assert clock.moment(1 << 70).wall.year == 2262
