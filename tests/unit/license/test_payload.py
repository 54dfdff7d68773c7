"""Payloads: each rule of a license and of a revocation list, with its message."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta, timezone
from typing import Any

import pytest

from agent.license.payload import (
    license_from,
    license_payload,
    read_document,
    read_license,
    read_revocations,
    revocations_from,
    revocations_payload,
)
from agent.license.values import (
    LICENSE_TYPE,
    MOST_SERIAL,
    NOTICE_DAYS,
    REVOCATIONS_TYPE,
    ClockRule,
    DocumentEntitlement,
    Envelope,
    Every,
    Kind,
    LicenseDocument,
    Malformed,
    NodeLock,
    Period,
    RevocationList,
    RevokedLicense,
)
from agent.model import PortClass
from tests.unit.license.documents import HK, MI, entitlement_raw, license_raw, revocations_raw
from tests.unit.license.mistakes import BAD_TIMES, MALFORMED, NEEDED, REVOKED

BEGIN, END = datetime(2026, 1, 1, tzinfo=UTC), datetime(2027, 1, 1, tzinfo=UTC)
APP = {"id": "app", "principals": ["billing"]}
TIMES = ("issued_at", "starts_at", "expires_at", "terminates_at")


@pytest.mark.parametrize("case", MALFORMED)
def test_what_breaks_a_rule_is_refused_with_a_remedy(case: str) -> None:
    raw, message = MALFORMED[case]
    with pytest.raises(Malformed) as raised:
        license_from(raw)
    assert message in str(raised.value)
    assert raised.value.remedy
    assert str(raised.value).isprintable()
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize("key", TIMES)
@pytest.mark.parametrize("case", BAD_TIMES)
def test_a_time_is_one_of_rfc_3339_with_an_offset(case: str, key: str) -> None:
    value, message = BAD_TIMES[case]
    with pytest.raises(Malformed) as raised:
        license_from(license_raw() | {key: value})
    assert f"{key}: " in str(raised.value)
    assert message in str(raised.value)
    assert len(str(raised.value)) < 500


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("2026-01-01T00:00:00Z", BEGIN),
        ("2026-01-01t00:00:00z", BEGIN),
        ("2026-01-01T01:00:00+01:00", BEGIN),
        ("2025-12-31T18:15:00-05:45", BEGIN),
        ("2026-01-01T00:00:00-00:00", BEGIN),
        ("2026-01-01T00:00:00.5Z", BEGIN + timedelta(milliseconds=500)),
        ("2026-01-01T00:00:00.000001999Z", BEGIN + timedelta(microseconds=1)),
        ("2024-02-29T00:00:00Z", datetime(2024, 2, 29, tzinfo=UTC)),
        ("1970-01-01T00:00:00Z", datetime(1970, 1, 1, tzinfo=UTC)),
        ("9999-12-31T23:59:59.999999Z", datetime(9999, 12, 31, 23, 59, 59, 999999, UTC)),
        (datetime(2026, 1, 1, 1, tzinfo=timezone(timedelta(hours=1))), BEGIN),
    ],
)
def test_a_time_is_kept_as_utc(text: object, moment: datetime) -> None:
    issued_at = license_from(license_raw(issued_at=text)).issued_at
    assert issued_at == moment
    assert issued_at.tzinfo is UTC


def test_the_whole_example_is_read() -> None:
    assert license_from(license_raw()) == LicenseDocument(
        id="acme-2026",
        serial=3,
        supersedes=("acme-2025",),
        issuer="Acme",
        licensee="Example Ltd",
        product="acme-orders",
        kind=Kind.PRODUCTION,
        issued_at=BEGIN,
        starts_at=BEGIN,
        expires_at=END,
        terminates_at=datetime(2027, 2, 1, tzinfo=UTC),
        notice_days=(60, 30, 14, 7, 1),
        node_lock=NodeLock((MI, HK), 1),
        hosts=4,
        clock=ClockRule.LENIENT,
        period=Period(Every.MONTH, date(2026, 1, 1)),
        entitlements=(DocumentEntitlement("app", ("billing",), None, (PortClass.INTERNAL,)),),
        extensions={"order": "4711"},
    )


def test_what_is_absent_has_its_default() -> None:
    document = license_from({key: value for key, value in license_raw().items() if key in NEEDED})
    assert document.starts_at == document.issued_at
    assert (document.expires_at, document.terminates_at) == (None, None)
    assert document.supersedes == ()
    assert document.notice_days == NOTICE_DAYS
    assert (document.node_lock, document.hosts, document.clock) == (None, None, ClockRule.LENIENT)
    assert document.period == Period(Every.MONTH, None)
    assert document.extensions == {}


def test_without_terminates_at_there_is_no_grace() -> None:
    document = license_from(license_raw(terminates_at=None))
    assert document.terminates_at == document.expires_at == END


ACCEPTED = {
    "starts before it was issued": license_raw(starts_at="2025-06-01T00:00:00Z"),
    "starts long after it was issued": license_raw(starts_at="2026-12-31T23:59:59Z"),
    "an evaluation with an end": license_raw(kind="evaluation", terminates_at=None),
    "a perpetual license": license_raw(expires_at=None, terminates_at=None),
    "perpetual for development": license_raw(kind="development", expires_at=None, terminates_at=None),
    "no grace, written": license_raw(terminates_at="2027-01-01T00:00:00Z"),
    "the highest serial": license_raw(serial=MOST_SERIAL),
    "names of other scripts": license_raw(issuer="Ünïcode 株式会社 Ελλάς", licensee="عربي 😀"),
    "a character of a later Unicode": license_raw(licensee="\u0378"),
    "256 characters": license_raw(licensee="ж" * 256),
    "both of two nodes": license_raw(node_lock={"any_of": [MI, HK], "at_least": 2}),
    "a strict clock": license_raw(clock="strict"),
    "a quarter": license_raw(period={"every": "quarter"}),
    "32 notices": license_raw(notice_days=list(range(3650, 3618, -1))),
    "all classes": entitlement_raw(classes=["public", "internal", "admin"]),
    "services and a window of its own": entitlement_raw(
        services=["db", "web"], starts_at="2026-02-01T00:00:00Z", expires_at="2026-03-01T00:00:00Z"
    ),
    "an entitlement outside its license": entitlement_raw(starts_at="2030-02-01T00:00:00Z"),
    "many entitlements": license_raw(entitlements=[APP | {"id": f"a{one}"} for one in range(256)]),
    "any extensions": license_raw(extensions={"id": [1, 2.5, None, True, {"seats": "\x1b\u202e"}], "": {}}),
    "empty extensions": license_raw(extensions={}),
}


@pytest.mark.parametrize("case", ACCEPTED)
def test_what_is_written_reads_back_the_same(case: str) -> None:
    document = license_from(ACCEPTED[case])
    payload = license_payload(document)
    assert read_license(payload) == document
    assert b": " not in payload.replace(b"\\u001b", b"")


def test_an_extension_is_shown_as_it_was_written() -> None:
    document = license_from(license_raw(extensions={"float": 1e300, "int": (1 << 64) - 1, "deep": [[[]]]}))
    assert read_license(license_payload(document)).extensions == document.extensions


def test_fields_of_the_values_are_all_written() -> None:
    document = replace(license_from(license_raw()), clock=ClockRule.STRICT, notice_days=(5,))
    assert set(json.loads(license_payload(document))) == set(license_raw())


def test_a_mistake_has_its_location() -> None:
    for raw, location in (
        (entitlement_raw(principals=["a", 7]), ("entitlements", 0, "principals", 1)),
        (entitlement_raw(principles=["a"]), ("entitlements", 0, "principles")),
        (license_raw(kind=None), ()),
        (license_raw(node_lock={"any_of": [MI], "at_least": 5}), ("node_lock", "at_least")),
        (license_raw(terminates_at="2026-02-01T00:00:00Z"), ("terminates_at",)),
        (license_raw(extensions={"a": {"b": [date(2026, 1, 1)]}}), ("extensions", "a", "b", 0)),
    ):
        with pytest.raises(Malformed) as raised:
            license_from(raw)
        assert raised.value.location == location


@pytest.mark.parametrize("case", REVOKED)
def test_what_is_no_revocation_list_is_refused(case: str) -> None:
    raw, message = REVOKED[case]
    with pytest.raises(Malformed) as raised:
        revocations_from(raw)
    assert message in str(raised.value)
    assert raised.value.remedy


def test_a_revocation_list_is_read() -> None:
    assert revocations_from(revocations_raw()) == RevocationList(
        issuer="Acme",
        serial=1,
        issued_at=BEGIN,
        next_update=datetime(2026, 2, 1, tzinfo=UTC),
        licenses=(RevokedLicense("acme-2025", None), RevokedLicense("acme-2026", frozenset({1, 2}))),
        keys=("ab" * 32,),
    )


@pytest.mark.parametrize(
    "raw",
    [
        revocations_raw(),
        revocations_raw(licenses=[], keys=[]),
        revocations_raw(licenses=None, keys=None),
        revocations_raw(licenses=[{"id": "a", "serials": [MOST_SERIAL, 1]}]),
    ],
)
def test_a_revocation_list_reads_back_the_same(raw: dict[str, Any]) -> None:
    revocations = revocations_from(raw)
    assert read_revocations(revocations_payload(revocations)) == revocations


def test_the_type_decides_what_is_read() -> None:
    payload = license_payload(license_from(license_raw()))
    revoked = revocations_payload(revocations_from(revocations_raw()))
    assert isinstance(read_document(Envelope(LICENSE_TYPE, payload, ())), LicenseDocument)
    assert isinstance(read_document(Envelope(REVOCATIONS_TYPE, revoked, ())), RevocationList)
    for kind, content, why in (
        (REVOCATIONS_TYPE, payload, "unknown key 'id'"),
        (LICENSE_TYPE, revoked, "unknown key 'next_update'"),
        (LICENSE_TYPE.upper(), payload, "payload type 'APPLICATION"),
        (f"{LICENSE_TYPE} ", payload, "is not known"),
        ("\x1b[2J" * 1000, payload, r"payload type '\x1b[2J"),
    ):
        with pytest.raises(Malformed) as raised:
            read_document(Envelope(kind, content, ()))
        assert why in str(raised.value)
        assert len(str(raised.value)) < 500
