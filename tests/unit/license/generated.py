"""Strategies: documents that are valid, JSON of any kind, and what an attacker makes of both."""

from __future__ import annotations

import base64
import json
import re
import string
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from agent.license.values import (
    LICENSE_TYPE,
    MOST_SERIAL,
    REVOCATIONS_TYPE,
    ClockRule,
    DocumentEntitlement,
    Every,
    Kind,
    LicenseDocument,
    NodeLock,
    Period,
    RevocationList,
    RevokedLicense,
)
from agent.model import PortClass

NAMES = st.integers(0, 1 << 200).map(lambda number: f"n{number:x}"[:63]) | st.sampled_from(["Z", "0._-"])
FEW_NAMES = st.sampled_from(["a", "b", "app", "acme-2025", "acme-2026", "x" * 63])
TEXTS = st.text(
    st.characters(exclude_categories=["Cc", "Cf", "Cs", "Co", "Zl", "Zp"]), min_size=1, max_size=12
).filter(
    lambda text: text.strip() and not re.search("[\ufdd0-\ufdef]|[^\0-\ufffd\U00010000-\U0001fffd]", text)
)
SERIALS = st.integers(1, MOST_SERIAL) | st.integers(1, 3)
MOMENTS = st.datetimes(datetime(1970, 1, 1), datetime(9999, 1, 1), timezones=st.just(UTC))
SPANS = st.timedeltas(timedelta(microseconds=1), timedelta(days=300))
HEX = st.integers(0, (1 << 256) - 1).map("{:064x}".format)
NODE_IDS = st.builds("{}:{}".format, st.sampled_from(["mi", "dm", "hk"]), HEX)

NUMBERS = st.integers() | st.floats() | st.sampled_from([0, 1 << 53, (1 << 64) - 1, 1 << 64, 10**4000, 1e308])
STRANGE_TEXT = st.text(st.characters(), max_size=20) | st.sampled_from(
    [
        "\ud800",
        "\u202e",
        "\x1b[2J",
        "9999-12-31T23:59:59-23:59",
        "0001-01-01T00:00:00+23:59",
        "all",
        "x" * 300,
    ]
)
ANY_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | NUMBERS | STRANGE_TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(STRANGE_TEXT, inner, max_size=4),
    max_leaves=8,
)
PLAIN_JSON: st.SearchStrategy[Any] = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(1 - (1 << 64), (1 << 64) - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


def some(values: st.SearchStrategy[Any], most: int = 4) -> st.SearchStrategy[tuple[Any, ...]]:
    return st.lists(values, min_size=1, max_size=most, unique=True).map(tuple)


@st.composite
def entitlements(draw: st.DrawFn, name: str) -> DocumentEntitlement:
    starts_at = draw(st.none() | MOMENTS)
    ends = MOMENTS if starts_at is None else SPANS.map(lambda span: starts_at + span)
    return DocumentEntitlement(
        id=name,
        principals=draw(some(FEW_NAMES)),
        services=draw(st.none() | some(FEW_NAMES)),
        classes=draw(st.none() | some(st.sampled_from(PortClass))),
        starts_at=starts_at,
        expires_at=draw(st.none() | ends),
    )


@st.composite
def licenses(draw: st.DrawFn) -> LicenseDocument:
    kind = draw(st.sampled_from(Kind))
    issued_at, starts_at = draw(MOMENTS), draw(MOMENTS)
    ends = st.none() if kind != Kind.EVALUATION else st.nothing()
    expires_at = draw(ends | SPANS.map(lambda span: starts_at + span))
    ids = draw(st.none() | some(NODE_IDS))
    return LicenseDocument(
        id=draw(NAMES.filter(lambda name: name not in ("a", "b"))),
        serial=draw(SERIALS),
        supersedes=draw(st.just(()) | some(st.sampled_from(["a", "b"]))),
        issuer=draw(TEXTS),
        licensee=draw(TEXTS),
        product=draw(NAMES),
        kind=kind,
        issued_at=issued_at,
        starts_at=starts_at,
        expires_at=expires_at,
        terminates_at=None if expires_at is None else expires_at + draw(st.just(timedelta(0)) | SPANS),
        notice_days=draw(some(st.integers(1, 3650), 5)),
        node_lock=None if ids is None else NodeLock(ids, draw(st.integers(1, len(ids)))),
        hosts=draw(st.none() | SERIALS),
        clock=draw(st.sampled_from(ClockRule)),
        period=Period(draw(st.sampled_from(Every)), draw(st.none() | st.dates())),
        entitlements=tuple(draw(entitlements(name)) for name in draw(some(FEW_NAMES))),
        extensions=draw(st.dictionaries(st.text(max_size=8), PLAIN_JSON, max_size=3)),
    )


@st.composite
def revocations(draw: st.DrawFn) -> RevocationList:
    issued_at = draw(MOMENTS)
    return RevocationList(
        issuer=draw(TEXTS),
        serial=draw(SERIALS),
        issued_at=issued_at,
        next_update=issued_at + draw(SPANS),
        licenses=tuple(
            RevokedLicense(name, draw(st.none() | st.frozensets(SERIALS, min_size=1, max_size=5)))
            for name in draw(st.just(()) | some(FEW_NAMES))
        ),
        keys=draw(st.just(()) | some(HEX)),
    )


@st.composite
def changed(draw: st.DrawFn, raw: Any, values: st.SearchStrategy[Any] = ANY_JSON) -> Any:
    """The value with one to three changes somewhere in it: replaced, left out, added, or moved."""
    result = json.loads(json.dumps(raw))
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(result))
        holder, step = draw(st.sampled_from(places))
        value = draw(values | st.sampled_from([holder_[step_] for holder_, step_ in places]))
        value = json.loads(json.dumps(value))  # never the same list in two places
        action = draw(st.integers(0, 3))
        if action == 0:
            del holder[step]
        elif action == 1 and isinstance(holder, dict):
            holder[draw(STRANGE_TEXT | st.sampled_from(sorted(raw)) | st.just("seats"))] = value
        elif action == 1:
            holder.insert(step, value)
        else:
            holder[step] = value
        if not result:
            break
    return result


def _places(value: Any) -> Any:
    steps = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for step in steps:
        yield value, step
        yield from _places(value[step])


@st.composite
def damage(draw: st.DrawFn, content: bytes, other: bytes) -> bytes:
    """The bytes with one to four changes: bits, pieces lost, doubled, moved, or taken from `other`."""
    for _ in range(draw(st.integers(1, 4))):
        at = draw(st.integers(0, len(content)))
        to = draw(st.integers(at, min(len(content), at + draw(st.sampled_from([1, 8, 64, 4096])))))
        content = draw(st.sampled_from(DAMAGES))(content, other, at, to)
    return content


def _flipped(content: bytes, at: int, bit: int) -> bytes:
    if at == len(content):
        return content
    return content[:at] + bytes([content[at] ^ 1 << bit]) + content[at + 1 :]


TOKENS = [
    *(token.encode() for token in '{}[]:,"\\'),
    b'"payload":',
    b'"sig":"QQ==",',
    b"[" * 5000,
    b'{"a":' * 2000,
    b"9" * 5000,
    b"1e999",
    b"-Infinity",
    b"\\ud800",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    b"==",
    b"-",
    b"_",
    b"+",
    b"null",
    b" " * 70_000,
]
DAMAGES: list[Callable[[bytes, bytes, int, int], bytes]] = [
    *(lambda content, other, at, to, bit=bit: _flipped(content, at, bit) for bit in range(8)),
    lambda content, other, at, to: content[:at],
    lambda content, other, at, to: content[at:],
    lambda content, other, at, to: content[:at] + content[to:],
    lambda content, other, at, to: content[:to] + content[at:],
    lambda content, other, at, to: content[:at] + other[at:to] + content[to:],
    lambda content, other, at, to: content[:at] + other[at:],
    lambda content, other, at, to: content[:at] + content[at:to][::-1] + content[to:],
    *(lambda content, other, at, to, token=token: content[:at] + token + content[at:] for token in TOKENS),
]
"""Of content, other content, and a piece of it from `at` to `to`."""


@st.composite
def recombined(draw: st.DrawFn, parts: list[dict[str, Any]]) -> bytes:
    """An envelope of the parts of several: payloads, types and signatures that were not signed together."""
    payload = base64.b64decode(draw(st.sampled_from(parts))["payload"])
    payload = draw(
        st.just(payload)
        | st.just(payload + b" ")
        | st.just(b" " + payload)
        | st.just(payload.replace(b'"serial":', b'"serial":1'))
        | st.just(payload.replace(b'"', b"\\u0022", 1))
        | damage(payload, payload)
    )
    encode = draw(st.sampled_from([base64.b64encode, base64.urlsafe_b64encode]))
    known = [one for part in parts for one in part["signatures"]]
    signatures = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "keyid": st.sampled_from([one["keyid"] for one in known]) | st.text(max_size=3),
                    "sig": st.sampled_from([one["sig"] for one in known])
                    | st.binary(min_size=64, max_size=64).map(lambda value: base64.b64encode(value).decode()),
                }
            ),
            min_size=1,
            max_size=8,
        )
    )
    kind = draw(st.sampled_from([LICENSE_TYPE, REVOCATIONS_TYPE]) | st.text(string.printable, max_size=5))
    more = draw(st.dictionaries(st.text(max_size=3), PLAIN_JSON, max_size=1))
    return json.dumps(
        {"payload": encode(payload).decode(), "payloadType": kind, "signatures": signatures} | more
    ).encode()
