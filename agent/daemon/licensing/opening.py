"""Opens documents: reads the envelope and the payload, and finds the keys that signed it."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from agent.daemon.licensing.verifier import Verifier
from agent.license.envelope import read_envelope
from agent.license.payload import read_license, read_revocations
from agent.license.standing import Opened
from agent.license.values import (
    LICENSE_TYPE,
    REVOCATIONS_TYPE,
    Envelope,
    Malformed,
    PinnedKey,
    Signature,
)
from agent.license.verification import Check


@dataclass(frozen=True, slots=True)
class Content:
    """The bytes of one document, and its verdict of an earlier time, if there was one."""

    file: str
    content: bytes
    verified_before: frozenset[str] | None = None
    """Kids under which these same bytes verified."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    content: Content
    envelope: Envelope
    opened: Opened


def open_all(
    contents: Sequence[Content], pinned: Sequence[PinnedKey], verifier: Verifier
) -> list[Opened | Malformed]:
    """In order. Where the verifier gives no verdict, the earlier one of the same bytes stands."""
    parsed = [_parsed(one) for one in contents]
    tried = [(one, key) for one in parsed if isinstance(one, _Parsed) for key in _keys_for(one, pinned)]
    # one copy of each message: 64 KiB for each key and signature of 256 files would be gigabytes
    messages = {id(one): one.envelope.message for one, _ in tried}
    checks = [
        (one, key, Check(key.public_key, messages[id(one)], signature.value))
        for one, key, signature in _by_promise(tried)
    ]
    verified: dict[int, set[str]] = {}
    unknown: set[int] = set()
    for (one, key, _), verdict in zip(checks, verifier.verdicts(each for _, _, each in checks), strict=True):
        if verdict is None:
            unknown.add(id(one))
        elif verdict:
            verified.setdefault(id(one), set()).add(key.kid)
    return [
        replace(one.opened, verified=_verdict(one, verified.get(id(one), set()), id(one) in unknown))
        if isinstance(one, _Parsed)
        else one
        for one in parsed
    ]


def _by_promise(
    tried: Iterable[tuple[_Parsed, PinnedKey]],
) -> list[tuple[_Parsed, PinnedKey, Signature]]:
    """Of each document first the signature whose key id is that of the key: it is all that a good one needs,
    and others may have many that do not verify."""
    first, rest = [], []
    promising: set[int] = set()
    for one, key in tried:
        for signature in one.envelope.signatures:
            if signature.keyid == key.kid and id(one) not in promising:
                promising.add(id(one))
                first.append((one, key, signature))
            else:
                rest.append((one, key, signature))
    return first + rest


def _verdict(one: _Parsed, verified: set[str], is_partly_unknown: bool) -> frozenset[str] | None:
    if is_partly_unknown and not verified:
        return one.content.verified_before
    return frozenset(verified)


def _keys_for(one: _Parsed, pinned: Sequence[PinnedKey]) -> list[PinnedKey]:
    """No other issuer's key can sign it."""
    keys = {key.kid: key for key in pinned if key.issuer == one.opened.document.issuer}
    return list(keys.values())


def _parsed(content: Content) -> _Parsed | Malformed:
    try:
        envelope = read_envelope(content.content)
        if envelope.payload_type == LICENSE_TYPE:
            return _Parsed(content, envelope, _opened(content, envelope, read_license(envelope.payload)))
        if envelope.payload_type == REVOCATIONS_TYPE:
            return _Parsed(content, envelope, _opened(content, envelope, read_revocations(envelope.payload)))
        remedy = f"types are {LICENSE_TYPE} and {REVOCATIONS_TYPE}"
        return Malformed(f"payloadType {envelope.payload_type[:80]!r} is not known", remedy)
    except Malformed as error:
        return error


def _opened(content: Content, envelope: Envelope, document: object) -> Opened:
    digest = hashlib.sha256(envelope.payload).hexdigest()
    hints = tuple(one.keyid for one in envelope.signatures)
    return Opened(content.file, document, digest, hints)  # type: ignore[arg-type]
