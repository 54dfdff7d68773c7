"""Generated documents: nothing crashes the reader, nothing that was not signed verifies.

LICET_EXAMPLES: how many documents in all; `make soak` takes 100,000."""

from __future__ import annotations

import json
import os
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.errors import PolicyErrors
from agent.license import strict_json
from agent.license.envelope import read_envelope, write_envelope
from agent.license.keys import key_text
from agent.license.payload import (
    license_from,
    license_payload,
    read_document,
    read_license,
    read_revocations,
    revocations_from,
    revocations_payload,
)
from agent.license.signatures import new_private_key, verify_one
from agent.license.values import (
    REVOCATIONS_TYPE,
    Envelope,
    LicenseDocument,
    Malformed,
    RevocationList,
)
from agent.policy.document.key_file import read_key
from tests.unit.license import generated
from tests.unit.license.documents import license_raw, pinned, revocations_raw, signed

EXAMPLES = int(os.environ.get("LICET_EXAMPLES", "2000"))


def share(percent: int) -> settings:
    slow = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=max(EXAMPLES * percent // 100, 20), suppress_health_check=slow)


KEY, OTHER = new_private_key(), new_private_key()
PINNED = [pinned(KEY), pinned(OTHER)]
LICENSE = license_payload(license_from(license_raw()))
OLDER = license_payload(license_from(license_raw(serial=2, expires_at=None, terminates_at=None)))
REVOKED = revocations_payload(revocations_from(revocations_raw()))
SIGNED = [
    signed(LICENSE, KEY),
    signed(OLDER, KEY, OTHER),
    signed(REVOKED, OTHER, payload_type=REVOCATIONS_TYPE),
]
FILES = [write_envelope(envelope) for envelope in SIGNED]


def read(content: bytes) -> tuple[Envelope | None, LicenseDocument | RevocationList | None]:
    """What is read of a file. Any other exception than Malformed fails the test."""
    try:
        envelope = read_envelope(content)
    except Malformed as error:
        told(error)
        return None, None
    try:
        return envelope, read_document(envelope)
    except Malformed as error:
        told(error)
        return envelope, None


def told(error: Malformed) -> None:
    """One line that a terminal can show, however long or strange the document is."""
    assert error.reason
    assert str(error).isprintable()
    assert len(str(error)) < 600


def check_unforged(content: bytes) -> None:
    """Whatever verifies is one of the payloads that were signed, by that key, as that type."""
    envelope, _ = read(content)
    if envelope is None:
        return
    for signature in envelope.signatures:
        for pin in PINNED:
            if verify_one(pin.public_key, envelope.message, signature.value):
                assert (envelope.payload_type, envelope.payload, signature.value) in {
                    (one.payload_type, one.payload, its.value) for one in SIGNED for its in one.signatures
                }


@share(10)
@given(st.binary(max_size=200) | st.text(max_size=200).map(lambda text: text.encode(errors="surrogatepass")))
def test_no_bytes_crash_the_reader(content: bytes) -> None:
    read(content)
    for reader in (strict_json.parse, read_license, read_revocations):
        try:
            reader(content)
        except Malformed as error:
            told(error)


@share(50)
@given(st.data())
def test_a_damaged_envelope_is_refused_or_still_what_was_signed(data: st.DataObject) -> None:
    content, other = data.draw(st.sampled_from(FILES)), data.draw(st.sampled_from(FILES))
    check_unforged(data.draw(generated.damage(content, other)))


@share(25)
@given(generated.recombined([json.loads(file) for file in FILES]))
def test_parts_of_several_envelopes_make_no_new_one(content: bytes) -> None:
    check_unforged(content)


@share(10)
@given(st.data())
def test_a_damaged_payload_is_malformed_or_reads_back_the_same(data: st.DataObject) -> None:
    payload = data.draw(generated.damage(LICENSE, OLDER))
    try:
        document = read_license(payload)
    except Malformed as error:
        told(error)
        return
    assert read_license(license_payload(document)) == document


@share(25)
@given(generated.changed(license_raw()))
def test_a_changed_license_is_malformed_or_reads_back_the_same(raw: Any) -> None:
    try:
        document = license_from(raw)
    except Malformed as error:
        told(error)
        check_location(raw, error.location)
        return
    check_holds(document)
    assert read_license(license_payload(document)) == document


@share(10)
@given(generated.changed(revocations_raw()))
def test_a_changed_revocation_list_is_malformed_or_reads_back_the_same(raw: Any) -> None:
    try:
        revocations = revocations_from(raw)
    except Malformed as error:
        told(error)
        check_location(raw, error.location)
        return
    assert read_revocations(revocations_payload(revocations)) == revocations


@share(5)
@given(generated.licenses())
def test_a_valid_license_reads_back_the_same(document: LicenseDocument) -> None:
    payload = license_payload(document)
    assert read_license(payload) == document
    assert license_payload(read_license(payload)) == payload
    envelope = signed(payload, KEY)
    assert read_envelope(write_envelope(envelope)) == envelope


@share(5)
@given(generated.revocations())
def test_a_valid_revocation_list_reads_back_the_same(revocations: RevocationList) -> None:
    assert read_revocations(revocations_payload(revocations)) == revocations


@share(10)
@given(st.data())
def test_a_damaged_key_file_is_refused_or_the_same_key(data: st.DataObject) -> None:
    texts = [key_text(pin).encode() for pin in PINNED]
    content = data.draw(generated.damage(texts[0], texts[1]))
    try:
        key = read_key(content, "key.yaml")
    except PolicyErrors:
        return
    assert key.public_key in {pin.public_key for pin in PINNED}


def check_location(raw: Any, location: tuple[str | int, ...]) -> None:
    """It leads to something that was written."""
    for step in location:
        raw = raw[step]


def check_holds(document: LicenseDocument) -> None:
    """What everything that reads a LicenseDocument relies on."""
    assert document.entitlements
    assert document.id not in document.supersedes
    assert (document.expires_at is None) == (document.terminates_at is None)
    if document.expires_at and document.terminates_at:
        assert document.starts_at < document.expires_at <= document.terminates_at
    if document.node_lock:
        assert 1 <= document.node_lock.at_least <= len(set(document.node_lock.any_of))
    for one in (document.issued_at, document.starts_at, document.expires_at, document.terminates_at):
        assert one is None or one.utcoffset() is not None
    assert len({one.id for one in document.entitlements}) == len(document.entitlements)
    assert all(one.principals for one in document.entitlements)


@share(5)
@given(generated.TEXTS)
def test_an_issuer_is_written_to_a_key_file_and_read(issuer: str) -> None:
    pin = pinned(KEY, issuer=issuer)
    assert read_key(key_text(pin).encode(), "key.yaml") == pin
