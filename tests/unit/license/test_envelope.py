"""DSSE envelopes: what is read, what is refused, and that another implementation agrees."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from securesystemslib import dsse
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer._crypto_signer import CryptoSigner
from securesystemslib.signer._key import SSlibKey

from agent.license.envelope import from_base64, read_envelope, write_envelope
from agent.license.keys import kid_of
from agent.license.payload import license_from, license_payload, read_license
from agent.license.signatures import new_private_key, public_bytes, sign, verify_one
from agent.license.values import LICENSE_TYPE, MOST_DOCUMENT_BYTES, Envelope, Malformed, Signature
from tests.unit.license.documents import license_raw, signed

PAYLOAD = license_payload(license_from(license_raw()))
SIGNATURE = base64.b64encode(bytes(64)).decode()


def enveloped(**changes: Any) -> bytes:
    raw = {
        "payload": base64.b64encode(PAYLOAD).decode(),
        "payloadType": LICENSE_TYPE,
        "signatures": [{"keyid": "a", "sig": SIGNATURE}],
    }
    return json.dumps({key: value for key, value in (raw | changes).items() if value is not None}).encode()


def test_what_is_written_is_read() -> None:
    envelope = signed(PAYLOAD, new_private_key(), new_private_key())
    assert read_envelope(write_envelope(envelope)) == envelope


def test_the_encoding_that_is_signed_is_that_of_the_specification() -> None:
    envelope = Envelope("http://example.com/HelloWorld", b"hello world", ())
    assert envelope.message == b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"


def test_securesystemslib_verifies_what_is_written() -> None:
    key, other = new_private_key(), new_private_key()
    envelope = dsse.Envelope.from_dict(json.loads(write_envelope(signed(PAYLOAD, key))))
    assert envelope.payload == PAYLOAD
    keyid = kid_of(public_bytes(key))
    theirs = SSlibKey.from_crypto(key.public_key(), keyid)
    assert set(envelope.verify([theirs], 1)) == {keyid}
    with pytest.raises(VerificationError):
        envelope.verify([SSlibKey.from_crypto(other.public_key(), keyid)], 1)


def test_what_securesystemslib_writes_is_read_and_verified() -> None:
    signers = [CryptoSigner.generate_ed25519() for _ in range(3)]
    written = dsse.Envelope(PAYLOAD, LICENSE_TYPE, {})
    for signer in signers:
        written.sign(signer)
    envelope = read_envelope(json.dumps(written.to_dict()).encode())
    assert read_license(envelope.payload) == license_from(license_raw())
    assert envelope.message == written.pae()
    for signer, signature in zip(signers, envelope.signatures, strict=True):
        assert signature.keyid == signer.public_key.keyid
        public_key = bytes.fromhex(signer.public_key.keyval["public"])
        assert verify_one(public_key, envelope.message, signature.value)
        assert not verify_one(public_key, envelope.message + b" ", signature.value)


@pytest.mark.parametrize("encode", [base64.standard_b64encode, base64.urlsafe_b64encode])
def test_both_alphabets_are_read(encode: Any) -> None:
    key = new_private_key()
    payload = b'{"a":"\xc2\xbf\xc3\xbf\xc2\xbe\xc3\xbe?>~~~"}'  # + and / in each alignment
    message = Envelope(LICENSE_TYPE, payload, ()).message
    signature = sign(key, message)
    content = enveloped(
        payload=encode(payload).decode(), signatures=[{"sig": encode(signature).decode(), "keyid": ""}]
    )
    assert read_envelope(content) == Envelope(LICENSE_TYPE, payload, (Signature("", signature),))


def test_fields_that_dsse_does_not_define_are_ignored() -> None:
    content = enveloped(more=[{"a": 1}], signatures=[{"sig": SIGNATURE, "cert": {"b": [2]}}])
    assert read_envelope(content).signatures == (Signature("", bytes(64)),)


REFUSED = {
    "no keys and values": (b"[]", "expected keys and values"),
    "no type": (enveloped(payloadType=None), "payloadType is missing"),
    "an empty type": (enveloped(payloadType=""), "payloadType is missing"),
    "a type that is no text": (enveloped(payloadType=7), "payloadType is missing, or not text"),
    "no payload": (enveloped(payload=None), "payload is missing"),
    "a payload that is no text": (enveloped(payload={"id": "x"}), "payload is missing, or not text"),
    "a payload without padding": (enveloped(payload="QQ"), "payload: not base64"),
    "a payload with too much padding": (
        enveloped(payload="QUJD="),
        "payload: not base64 as RFC 4648 writes it",
    ),
    "a payload of both alphabets": (enveloped(payload="+_8="), "payload: not base64 of one alphabet"),
    "a payload with a line break": (enveloped(payload="QUJD\nQUJD"), "payload: not base64"),
    "a payload with a line break at its end": (enveloped(payload="QUJD\n"), "payload: not base64"),
    "a payload in digits of another script": (enveloped(payload="QUJ\u0664"), "payload: not base64"),
    "bits beyond the payload": (enveloped(payload="QR=="), "payload: not base64 as RFC 4648 writes it"),
    "padding inside": (enveloped(payload="QQ==QUJD"), "payload: not base64"),
    "no signatures": (enveloped(signatures=[]), "signatures is not a list of 1 to 8"),
    "signatures left out": (enveloped(signatures=None), "signatures is not a list of 1 to 8"),
    "nine signatures": (enveloped(signatures=[{"sig": SIGNATURE}] * 9), "signatures is not a list of 1 to 8"),
    "signatures as keys and values": (enveloped(signatures={"sig": SIGNATURE}), "is not a list of 1 to 8"),
    "a signature that is text": (
        enveloped(signatures=[SIGNATURE]),
        "a signature that is not keys and values",
    ),
    "a signature without its value": (enveloped(signatures=[{"keyid": "a"}]), "sig is missing"),
    "a keyid that is no text": (
        enveloped(signatures=[{"keyid": 1, "sig": SIGNATURE}]),
        "keyid: expected text, found the number 1",
    ),
    "a keyid that is null": (
        enveloped(signatures=[{"keyid": None, "sig": SIGNATURE}]),
        "keyid: expected text, found nothing",
    ),
    "a short signature": (enveloped(signatures=[{"sig": "QUJD"}]), "a signature of 3 bytes: Ed25519 has 64"),
    "a long signature": (
        enveloped(signatures=[{"sig": base64.b64encode(bytes(72)).decode()}]),
        "a signature of 72 bytes",
    ),
    "a key twice": (
        enveloped().replace(b'{"payload":', b'{"payload": "QQ==", "payload":'),
        "key 'payload' is given twice",
    ),
    "a key twice, once in escapes": (
        enveloped().replace(b'{"payload":', b'{"\\u0070ayload": "QQ==", "payload":'),
        "key 'payload' is given twice",
    ),
    "a key twice in a field that is ignored": (
        enveloped(more={}).replace(b"{}", b'{"a":1,"a":1}'),
        "given twice",
    ),
    "too large": (enveloped(more="x" * MOST_DOCUMENT_BYTES), "larger than 64 KiB"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_no_envelope_is_refused(case: str) -> None:
    content, reason = REFUSED[case]
    with pytest.raises(Malformed) as raised:
        read_envelope(content)
    assert reason in str(raised.value)


def test_the_largest_file_is_read() -> None:
    content = enveloped(more="")
    content = content.replace(b'"more": ""', b'"more": "%b"' % (b"x" * (MOST_DOCUMENT_BYTES - len(content))))
    assert len(content) == MOST_DOCUMENT_BYTES
    assert read_envelope(content).payload == PAYLOAD


def test_nothing_is_written_that_would_not_be_read() -> None:
    with pytest.raises(Malformed, match="KiB are the most"):
        write_envelope(signed(b"x" * MOST_DOCUMENT_BYTES))
    with pytest.raises(Malformed, match="signatures is not a list"):
        write_envelope(Envelope(LICENSE_TYPE, PAYLOAD, ()))


def test_each_text_decodes_to_bytes_of_which_it_is_the_only_text() -> None:
    for size in range(70):
        value = bytes(range(186, 186 + size))
        assert from_base64(base64.b64encode(value).decode()) == value
        assert from_base64(base64.urlsafe_b64encode(value).decode()) == value
