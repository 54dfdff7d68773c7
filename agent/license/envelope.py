"""DSSE envelopes as files: https://github.com/secure-systems-lab/dsse/blob/master/envelope.md"""

from __future__ import annotations

import base64
import binascii
import json
import re

from agent.license import fields, strict_json
from agent.license.values import (
    LICENSE_TYPE,
    MOST_DOCUMENT_BYTES,
    MOST_SIGNATURES,
    Envelope,
    Malformed,
    Signature,
)

SIGNATURE_BYTES = 64
"""Ed25519 (RFC 8032)."""
_ANEW = "get the file anew from its vendor"
_BASE64 = re.compile("[A-Za-z0-9+/]*={0,2}")
_URL_SAFE = re.compile("[A-Za-z0-9_-]*={0,2}")


def read_envelope(content: bytes) -> Envelope:
    """The envelope, with nothing verified. Fields that DSSE does not define are ignored. Raises Malformed."""
    raw = strict_json.parse(content)
    if not isinstance(raw, dict):
        raise Malformed("not an envelope: expected keys and values", _ANEW)
    kind = raw.get("payloadType")
    if not isinstance(kind, str) or not kind:
        raise Malformed("not an envelope: payloadType is missing, or not text", _ANEW, ("payloadType",))
    payload = _decoded(raw, "payload", ())
    signatures = raw.get("signatures")
    if not isinstance(signatures, list) or not 1 <= len(signatures) <= MOST_SIGNATURES:
        raise Malformed(
            f"not an envelope: signatures is not a list of 1 to {MOST_SIGNATURES}", _ANEW, ("signatures",)
        )
    return Envelope(kind, payload, tuple(_signature(one, at) for at, one in enumerate(signatures)))


def write_envelope(envelope: Envelope) -> bytes:
    """The file. Raises Malformed if read_envelope() would refuse it."""
    written = {
        "payload": base64.b64encode(envelope.payload).decode(),
        "payloadType": envelope.payload_type,
        "signatures": [
            {"keyid": one.keyid, "sig": base64.b64encode(one.value).decode()} for one in envelope.signatures
        ],
    }
    content = f"{json.dumps(written, indent=2)}\n".encode()
    if len(content) > MOST_DOCUMENT_BYTES:
        raise Malformed(
            f"the file would be {len(content):,} bytes, and {MOST_DOCUMENT_BYTES >> 10} KiB are the most",
            "make two licenses of it"
            if envelope.payload_type == LICENSE_TYPE
            else "list less, or in another key's list",
        )
    read_envelope(content)
    return content


def from_base64(text: str) -> bytes:
    """Either alphabet, padded. Raises ValueError for whatever does not encode back to the same text."""
    if not (_BASE64.fullmatch(text) or _URL_SAFE.fullmatch(text)):
        raise ValueError("not base64 of one alphabet")
    standard = text.replace("-", "+").replace("_", "/")
    try:
        decoded = base64.b64decode(standard, validate=True)
    except binascii.Error as error:
        raise ValueError("not base64 as RFC 4648 writes it") from error
    # b64decode() ignores bits that are too many, and, in some releases of Python, padding
    if base64.b64encode(decoded).decode() != standard:
        raise ValueError("not base64 as RFC 4648 writes it")
    return decoded


def _decoded(raw: dict[str, object], key: str, location: tuple[str | int, ...]) -> bytes:
    here = (*location, key)
    text = raw.get(key)
    if not isinstance(text, str):
        raise Malformed(f"not an envelope: {key} is missing, or not text", _ANEW, here)
    try:
        return from_base64(text)
    except ValueError as error:
        raise Malformed(f"{key}: {error}", _ANEW, here) from error


def _signature(raw: object, at: int) -> Signature:
    here = ("signatures", at)
    if not isinstance(raw, dict):
        raise Malformed("not an envelope: a signature that is not keys and values", _ANEW, here)
    keyid = raw.get("keyid", "")
    if keyid != "":
        # it is shown where the key is not known
        with fields.malformed(), fields.inside("signatures"), fields.inside(at), fields.inside("keyid"):
            fields.text(keyid)
    value = _decoded(raw, "sig", here)
    if len(value) != SIGNATURE_BYTES:
        raise Malformed(
            f"a signature of {len(value)} bytes: Ed25519 has {SIGNATURE_BYTES}", _ANEW, (*here, "sig")
        )
    return Signature(keyid, value)
