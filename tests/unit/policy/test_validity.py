"""When licenses and entitlements hold, as people are told."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from agent.license.clock import Moment
from agent.policy.document.load import parse_policy
from agent.policy.validity import Term, Validity, ended, terms_of
from agent.policy.values import Place, Window

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
SECOND = timedelta(seconds=1)
HOUR = timedelta(hours=1)
RENEW = "renew it, or remove it"
POLICY = """
version: 1
services: {db: {product: red, ports: [{port: 5432, class: internal}]}}
licenses:
  - id: old
    product: red
    expires_at: 2026-06-01T10:00:00Z
    entitlements:
      - {id: a, principals: [anyone]}
      - {id: b, principals: [anyone], expires_at: 2026-06-01T09:00:00Z}
  - id: graceful
    product: red
    expires_at: 2026-06-01T10:00:00Z
    terminates_at: 2026-06-01T14:00:00Z
    entitlements: [{id: a, principals: [anyone], expires_at: 2026-06-01T11:00:00Z}]
  - id: lasting
    product: red
    entitlements:
      - {id: a, principals: [anyone]}
      - {id: b, principals: [anyone], expires_at: 2026-06-01T11:00:00Z}
  - {id: later, product: red, starts_at: 2026-06-02T00:00:00Z, entitlements: [{id: a, principals: [anyone]}]}
"""


@pytest.mark.parametrize(
    ("after", "validity"),
    [
        (-SECOND, Validity.NOT_YET_VALID),
        (0 * SECOND, Validity.VALID),
        (HOUR - SECOND, Validity.VALID),
        (HOUR, Validity.GRACE),
        (2 * HOUR - SECOND, Validity.GRACE),
        (2 * HOUR, Validity.EXPIRED),
    ],
)
def test_a_term_changes_at_its_edges(after: timedelta, validity: Validity) -> None:
    term = Term("acme", "", Place("p"), Window(NOON, NOON + HOUR, NOON + 2 * HOUR))
    assert term.at(Moment.of(NOON + after)) is validity
    assert Term("acme", "", Place("p"), Window()).at(Moment.of(NOON + after)) is Validity.VALID


def test_a_term_begins_by_the_later_clock_and_ends_by_license_time() -> None:
    term = Term("acme", "", Place("p"), Window(NOON, NOON + HOUR, NOON + HOUR))
    assert term.at(Moment(NOON - 9 * HOUR, NOON)) is Validity.VALID
    assert term.at(Moment(NOON - 9 * HOUR, NOON + 9 * HOUR)) is Validity.VALID
    assert term.at(Moment(NOON + HOUR, NOON + HOUR)) is Validity.EXPIRED


def test_what_has_ended_or_is_in_grace_is_found_once_with_its_place() -> None:
    licenses = parse_policy(POLICY).licenses
    found = [(one.place.line, one.reason, one.remedy) for one in ended(licenses, Moment.of(NOON))]
    assert found == [
        (5, "license 'old' ended at 2026-06-01 10:00 UTC: it licenses no consumer", RENEW),
        (
            11,
            "license 'graceful' expired at 2026-06-01 10:00 UTC: grace until 2026-06-01 14:00 UTC",
            "renew it",
        ),
        (
            15,
            "license 'graceful', entitlement 'a' ended at 2026-06-01 11:00 UTC: it licenses no consumer",
            RENEW,
        ),
        (
            20,
            "license 'lasting', entitlement 'b' ended at 2026-06-01 11:00 UTC: it licenses no consumer",
            RENEW,
        ),
    ]
    assert ended(licenses, Moment.of(NOON - 4 * HOUR)) == []


def test_an_entitlement_without_a_window_has_no_term_of_its_own() -> None:
    names = [(term.license, term.entitlement) for term in terms_of(parse_policy(POLICY).licenses)]
    assert ("old", "a") not in names
    assert ("lasting", "b") in names
