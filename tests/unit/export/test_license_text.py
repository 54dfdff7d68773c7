"""A license in one line: what it is, what happens next, and when."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.export.license_text import about_unsigned, license_line, license_lines
from agent.export.licenses import License, Licenses
from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Times
from tests.unit.export.fake_agent import (
    FEBRUARY,
    FORGED,
    LICENSES,
    NEW_YEAR,
    NOVEMBER,
    REVOCATIONS,
    signed,
    unsigned,
)

ACME = "acme-2026 serial 3 (Acme, production)"
DAY = timedelta(days=1)


def at(now: datetime, one: License) -> str:
    """The line of a license whose state goes by the time."""
    moment = Moment(now, now)
    shown = replace(one, state=one.times.state(moment), next=one.times.next(moment))
    return license_line(shown.fields(), now)


@pytest.mark.parametrize(
    ("now", "line"),
    [
        (NOVEMBER, "valid, expires in 33 days (2027-01-01 00:00 UTC), then 31 days of grace"),
        (NEW_YEAR - DAY, "valid, expires in 1 day (2027-01-01 00:00 UTC), then 31 days of grace"),
        (
            NEW_YEAR - 30 * DAY + DAY / 86400,
            "valid, expires in 30 days (2027-01-01 00:00 UTC), then 31 days of grace",
        ),
        (NEW_YEAR - DAY / 2, "valid, expires in 12 hours (2027-01-01 00:00 UTC), then 31 days of grace"),
        (NEW_YEAR - DAY / 24, "valid, expires in 1 hour (2027-01-01 00:00 UTC), then 31 days of grace"),
        (NEW_YEAR - DAY / 96, "valid, expires in 15 minutes (2027-01-01 00:00 UTC), then 31 days of grace"),
        (NEW_YEAR, "grace, ends in 31 days (2027-02-01 00:00 UTC)"),
        (FEBRUARY, "expired, ended 0 seconds ago (2027-02-01 00:00 UTC)"),
        (FEBRUARY + 2 * DAY, "expired, ended 2 days ago (2027-02-01 00:00 UTC)"),
        (datetime(2025, 12, 30, tzinfo=UTC), "not_yet_valid, begins in 2 days (2026-01-01 00:00 UTC)"),
    ],
)
def test_it_says_what_happens_next_and_when(now: datetime, line: str) -> None:
    assert at(now, signed()) == f"{ACME} {line}"


def test_no_grace_and_no_end_are_said() -> None:
    until = Times(None, NEW_YEAR, NEW_YEAR)
    assert at(NOVEMBER, signed(times=until)).endswith(
        "expires in 33 days (2027-01-01 00:00 UTC), without grace"
    )
    assert at(NOVEMBER, signed(times=Times())).endswith("valid, perpetual")
    assert at(NOVEMBER, signed(times=Times(None, NEW_YEAR))).endswith("then grace without an end")


@pytest.mark.parametrize(
    ("one", "line"),
    [
        (unsigned(next=None), "forever (not signed, /etc/licet/policy.yaml:14) valid, perpetual"),
        (
            signed(state=State.REVOKED, why="serial 3 is on a revocation list", next=None, in_force=False),
            f"{ACME} revoked: serial 3 is on a revocation list",
        ),
        (
            FORGED,
            "forged.json, not verified, says: forged serial 3 (Acme, production) bad_signature: "
            "no signature verifies",
        ),
        (License(State.MALFORMED, file="x.json", signed=True, why="no JSON"), "x.json malformed: no JSON"),
        (
            signed(left_out="9 grants", in_force=False),
            f"{ACME} valid, expires in 33 days (2027-01-01 00:00 UTC), then 31 days of grace; "
            "left out: 9 grants",
        ),
        (
            signed(is_copy=True, next=None, times=Times()),
            f"{ACME} valid, perpetual; it stays in force while acme.json does not hold",
        ),
        (
            signed(in_force=False, next=None, times=Times()),
            f"{ACME} valid, perpetual; not in force: no policy uses it",
        ),
    ],
)
def test_what_is_wrong_with_it_is_said(one: License, line: str) -> None:
    assert license_line(one.fields(), NOVEMBER) == line


def test_a_beginning_goes_by_the_later_clock_and_an_end_by_license_time() -> None:
    begins = Times(NEW_YEAR, FEBRUARY, FEBRUARY)
    moment = Moment(license=NOVEMBER, wall=NEW_YEAR - DAY)
    future = signed(times=begins, state=State.NOT_YET_VALID, next=begins.next(moment))
    lines = license_lines(Licenses(moment, listed=(future, signed())).fields())
    assert [line.partition("(2027")[0].rpartition(" in ")[2] for line in lines] == ["1 day ", "33 days "]


def test_revocation_lists_are_behind_the_licenses() -> None:
    line = "revocations of Acme, serial 4: 2 licenses, 1 key; next update in 33 days (2027-01-01 00:00 UTC)"
    assert license_lines(LICENSES.fields())[-1] == line
    overdue = replace(
        LICENSES, moment=Moment(FEBRUARY, FEBRUARY), revocations=(replace(REVOCATIONS, is_overdue=True),)
    )
    assert license_lines(overdue.fields())[-1].endswith("; overdue since 31 days ago (2027-01-01 00:00 UTC)")
    bad = replace(
        REVOCATIONS, verified=False, in_force=False, state=State.UNKNOWN_KEY, why="key 5f is not pinned"
    )
    assert license_lines(Licenses(revocations=(bad,)).fields()) == [
        "r.json, not verified, says: revocations of Acme, serial 4: 2 licenses, 1 key; "
        "unknown_key: key 5f is not pinned"
    ]


@pytest.mark.parametrize(
    ("licenses", "keys", "told"),
    [(2, 0, "2 licenses"), (0, 1, "1 key"), (1, 2, "1 license, 2 keys"), (0, 0, "nothing is revoked")],
)
def test_a_revocation_list_says_only_what_it_revokes(licenses: int, keys: int, told: str) -> None:
    listed = replace(REVOCATIONS, licenses=licenses, keys=keys)
    (line,) = license_lines(Licenses(moment=LICENSES.moment, revocations=(listed,)).fields())
    assert line.startswith(f"revocations of Acme, serial 4: {told}; next update in ")


def test_where_there_is_no_license_nothing_is_said_of_unsigned_ones() -> None:
    assert about_unsigned(replace(LICENSES, listed=()).fields()) == ""
    assert about_unsigned(replace(LICENSES, listed=(), require_signed=True).fields()) != ""


def test_which_unsigned_licenses_are_in_force_is_said() -> None:
    assert about_unsigned(LICENSES.fields()) == "not signed, and in force: forever; require_signed is off"
    strict = replace(LICENSES, require_signed=True)
    assert about_unsigned(strict.fields()) == "only signed licenses grant (require_signed)"
    none = replace(LICENSES, listed=(signed(), unsigned(in_force=False)))
    assert about_unsigned(none.fields()).startswith("no license that is not signed is in force")
