"""Metrics of licenses: each name once, only names that somebody answers for, timestamps, not seconds left."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pytest

from agent.export.license_metrics import MOST_ISSUERS
from agent.export.licenses import License
from agent.license.report import State
from agent.license.times import Times
from tests.fixtures.metrics_text import Samples, total
from tests.unit.export.fake_agent import FORGED, LICENSES, NEW_YEAR, REVOCATIONS, SNAPSHOT, signed, unsigned
from tests.unit.export.test_metrics import samples

PER_LICENSE = (
    "licet_license_expiry_timestamp_seconds",
    "licet_license_termination_timestamp_seconds",
    "licet_license_valid",
)
PER_DOCUMENT = (
    "licet_license_serial",
    "licet_license_copy_in_force",
    "licet_license_renewal_starts_timestamp_seconds",
)


def of(*listed: License) -> Samples:
    return samples(replace(SNAPSHOT, licenses=replace(LICENSES, listed=listed)))


def names(found: Samples, metric: str) -> list[str]:
    return [dict(labels)["license"] for name, labels in found if name == metric]


@pytest.mark.parametrize(
    ("others", "serial"),
    [
        ([signed(serial=2, state=State.SUPERSEDED, in_force=False, file="old.json")], 3),
        ([signed(serial=9, state=State.NODE_MISMATCH, in_force=False, file="new.json")], 3),
        ([signed(state=State.MALFORMED, id="", verified=False, in_force=False)], 3),
        ([unsigned(id="acme-2026", state=State.SUPERSEDED, in_force=False)], 3),
        ([signed(serial=7, state=State.EXPIRED, in_force=False), signed(serial=4, in_force=False)], 3),
    ],
)
@pytest.mark.parametrize("first", [True, False])
def test_of_several_with_one_id_the_one_in_force_counts(
    others: list[License], serial: int, first: bool
) -> None:
    found = of(signed(), *others) if first else of(*others, signed())
    for metric in (*PER_LICENSE, *PER_DOCUMENT):
        assert names(found, metric) == ["acme-2026"]
    assert total(found, "licet_license_serial") == serial
    assert total(found, "licet_license_valid") == 1
    assert total(found, "licet_license_state") == 1


def test_without_one_in_force_the_newest_counts() -> None:
    old = signed(serial=3, state=State.EXPIRED, in_force=False)
    found = of(old, signed(serial=4, state=State.REVOKED, in_force=False))
    assert total(found, "licet_license_state", state="revoked", license="acme-2026") == 1
    assert total(found, "licet_license_serial") == 4


@pytest.mark.parametrize("state", [State.EXPIRED, State.REVOKED, State.NODE_MISMATCH, State.CLOCK_ROLLBACK])
@pytest.mark.parametrize("first", [True, False])
def test_a_renewal_that_has_not_begun_hides_no_license_that_has_ended(state: State, first: bool) -> None:
    ended = signed(serial=3, state=state, in_force=False)
    waits = signed(serial=4, state=State.NOT_YET_VALID, in_force=False, times=Times(NEW_YEAR), file="b.json")
    found = of(ended, waits) if first else of(waits, ended)
    assert total(found, "licet_license_state", state=state.value, license="acme-2026") == 1
    assert total(found, "licet_license_state") == 1
    assert total(found, "licet_license_expiry_timestamp_seconds") == NEW_YEAR.timestamp()


WAITS = signed(serial=4, state=State.NOT_YET_VALID, in_force=False, times=Times(NEW_YEAR), file="b.json")


@pytest.mark.parametrize(
    ("others", "begins"),
    [
        ([], float("inf")),
        ([WAITS], NEW_YEAR.timestamp()),
        ([replace(WAITS, id="acme-2027", supersedes=("acme-2026",))], NEW_YEAR.timestamp()),
        ([replace(WAITS, id="acme-2027")], float("inf")),
        ([replace(WAITS, id="other", issuer="Other", supersedes=("acme-2026",))], float("inf")),
        ([replace(WAITS, verified=False)], float("inf")),
        ([replace(WAITS, left_out="no room")], float("inf")),
        ([replace(WAITS, state=State.REVOKED)], float("inf")),
    ],
)
def test_a_renewal_that_waits_is_told_by_its_start(others: list[License], begins: float) -> None:
    assert total(of(signed(), *others), PER_DOCUMENT[-1], license="acme-2026") == begins


def test_text_that_nobody_signed_is_no_label() -> None:
    found = of(FORGED, replace(FORGED, id="acme-2026", issuer="Forger", state=State.UNKNOWN_KEY))
    assert not any("forged" in str(labels) or "Forger" in str(labels) for _, labels in found)
    for metric in (*PER_LICENSE, *PER_DOCUMENT, "licet_license_state"):
        assert names(found, metric) == []
    unverified = replace(REVOCATIONS, issuer="Forger", verified=False, in_force=False)
    lists = samples(replace(SNAPSHOT, licenses=replace(LICENSES, revocations=(unverified,))))
    assert not any("Forger" in str(labels) for _, labels in lists)


def test_a_license_that_is_not_signed_has_no_state_of_a_document() -> None:
    found = of(unsigned())
    for metric in PER_LICENSE:
        assert names(found, metric) == ["forever"]
    for metric in (*PER_DOCUMENT, "licet_license_state"):
        assert names(found, metric) == []


def test_what_has_no_end_is_infinite() -> None:
    found = of(signed(times=Times(None, NEW_YEAR)))
    assert total(found, "licet_license_expiry_timestamp_seconds") == NEW_YEAR.timestamp()
    assert total(found, "licet_license_termination_timestamp_seconds") == float("inf")


def test_a_copy_is_told_while_it_is_in_force() -> None:
    bad = signed(state=State.BAD_SIGNATURE, verified=False, in_force=False)
    assert total(of(bad, signed(is_copy=True)), "licet_license_copy_in_force") == 1
    ended = signed(is_copy=True, state=State.EXPIRED, in_force=False)
    assert total(of(bad, ended), "licet_license_copy_in_force") == 0


@pytest.mark.parametrize("days", [(1, 400), (400, 1), (-30, 400), (-30, -60, 400)])
def test_no_list_of_an_issuer_hides_another_that_is_overdue(days: tuple[int, ...]) -> None:
    lists = [
        replace(REVOCATIONS, serial=at + 1, key=f"{at}", next_update=NEW_YEAR + timedelta(days=one))
        for at, one in enumerate(days)
    ]
    lists.append(replace(REVOCATIONS, in_force=False, next_update=NEW_YEAR - timedelta(days=900)))
    found = samples(replace(SNAPSHOT, licenses=replace(LICENSES, revocations=tuple(lists))))
    name = "licet_revocations_next_update_timestamp_seconds"
    earliest = (NEW_YEAR + timedelta(days=min(days))).timestamp()
    assert [value for (metric, _), value in found.items() if metric == name] == [earliest]


def test_issuers_are_bounded_and_what_is_overdue_stays() -> None:
    lists = tuple(
        replace(REVOCATIONS, issuer=f"issuer {number}\n", next_update=NEW_YEAR + timedelta(days=number))
        for number in reversed(range(MOST_ISSUERS + 20))
    )
    found = samples(replace(SNAPSHOT, licenses=replace(LICENSES, revocations=lists)))
    metric = "licet_revocations_next_update_timestamp_seconds"
    issuers = [dict(labels)["issuer"] for name, labels in found if name == metric]
    assert len(issuers) == MOST_ISSUERS
    assert r"issuer 0\n" in issuers
    assert rf"issuer {MOST_ISSUERS}\n" not in issuers
