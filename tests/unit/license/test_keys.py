"""Pinned keys: each rule, and keys with which anybody could sign."""

from __future__ import annotations

import base64
import itertools
from datetime import UTC, datetime
from typing import Any

import pytest

from agent.errors import PolicyErrors
from agent.license.curve import is_usable
from agent.license.keys import key_from, key_text, kid_of
from agent.license.signatures import new_private_key, public_bytes, verify_one
from agent.license.values import Malformed, Permission
from agent.policy.document.key_file import read_key
from tests.unit.license.documents import key_raw, pinned

KEY = new_private_key()
PUBLIC = public_bytes(KEY)
PRIME = (1 << 255) - 19


def raw(**changes: Any) -> dict[str, Any]:
    return key_raw(PUBLIC, **changes)


def other(public_key: bytes) -> dict[str, Any]:
    return key_raw(public_key)


MALFORMED = {
    "a list": ([], "expected keys and values, found a list"),
    "an unknown key": (raw(permissions=["license"]), "unknown key 'permissions' (its keys are kid, issuer"),
    "a private key": (raw(private_key="x"), "unknown key 'private_key' (its keys are kid, issuer"),
    "no kid": (raw(kid=None), "lacks 'kid'"),
    "no issuer": (raw(issuer=None), "lacks 'issuer'"),
    "no products": (raw(products=None), "lacks 'products'"),
    "no public key": (raw(public_key=None), "lacks 'public_key'"),
    "no permission": (raw(may=None), "lacks 'may'"),
    "the kid of another key": (raw(kid="ab" * 32), "kid is not the SHA-256 of public_key"),
    "a kid in capitals": (raw(kid=kid_of(PUBLIC).upper()), "is not a valid key id"),
    "a short kid": (raw(kid=kid_of(PUBLIC)[:16]), "is not a valid key id"),
    "an issuer of two lines": (raw(issuer="a\nb"), "issuer: 'a\\nb' has the character U+000A"),
    "no product": (raw(products=[]), "products: an empty list"),
    "all products": (raw(products=["*"]), "products[0]: '*' is not a valid name"),
    "one product": (raw(products="acme-orders"), "products: expected a list"),
    "a product twice": (raw(products=["a", "a"]), "products[1]: 'a' is listed twice"),
    "may nothing": (raw(may=[]), "may: an empty list"),
    "may all": (raw(may=["all"]), "may[0]: 'all' is not one of license, revoke"),
    "may one thing twice": (raw(may=["revoke", "revoke"]), "may[1]: 'revoke' is listed twice"),
    "a public key that is no base64": (raw(public_key="?"), "public_key: not base64"),
    "a public key in PEM": (raw(public_key="-----BEGIN PUBLIC KEY-----"), "public_key: not base64"),
    "a public key in hex": (raw(public_key=PUBLIC.hex()), "public_key: 48 bytes, and an Ed25519 key has 32"),
    "a public key that is a number": (raw(public_key=7), "public_key: expected base64 of 32 bytes, found"),
    "a short public key": (other(PUBLIC[:31]), "public_key: 31 bytes"),
    "a public key of zeros": (other(bytes(32)), "public_key: a point of small order: anybody could sign"),
    "a naive start": (raw(valid_from="2026-01-01T00:00:00"), "valid_from: time '2026-01-01T00:00:00' has no"),
    "ends when it begins": (
        raw(valid_from="2026-01-01T00:00:00Z", valid_until="2026-01-01T01:00:00+01:00"),
        "valid_until is not after valid_from",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", MALFORMED)
def test_what_is_no_key_is_refused(case: str) -> None:
    value, message = MALFORMED[case]
    with pytest.raises(Malformed) as raised:
        key_from(value)
    assert message in str(raised.value)
    assert raised.value.remedy


def test_a_key_is_read() -> None:
    assert key_from(raw()) == pinned(KEY)
    assert key_from(raw(public_key=base64.urlsafe_b64encode(PUBLIC).decode())) == pinned(KEY)


def test_a_key_that_only_revokes_needs_no_products() -> None:
    key = key_from(raw(products=None, may=["revoke"]))
    assert (key.products, key.may) == ((), frozenset({Permission.REVOKE}))


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"issuer": "Ünïcode: 株式会社 # 😀 {x} 'y' \"z\""},
        {"issuer": "no", "products": ("1", "true", "null", "2026-01-01", "1e5", "0x1")},
        {"products": (), "may": frozenset({Permission.REVOKE})},
        {
            "valid_from": datetime(2026, 1, 1, tzinfo=UTC),
            "valid_until": datetime(2027, 1, 1, 0, 0, 0, 5, UTC),
        },
    ],
)
def test_what_is_written_to_pin_reads_back_the_same(changes: dict[str, Any]) -> None:
    key = pinned(KEY, **changes)
    assert read_key(key_text(key).encode(), "acme.yaml") == key


def points_of_small_order() -> list[bytes]:
    """All eight, in every encoding of 32 bytes: computed by the group law of RFC 8032, section 5.1.4."""
    d = -121665 * pow(121666, -1, PRIME) % PRIME

    def add(one: tuple[int, int], two: tuple[int, int]) -> tuple[int, int]:
        (x1, y1), (x2, y2) = one, two
        t = d * x1 * x2 * y1 * y2
        x = (x1 * y2 + x2 * y1) * pow(1 + t, -1, PRIME)
        y = (y1 * y2 + x1 * x2) * pow(1 - t, -1, PRIME)
        return x % PRIME, y % PRIME

    def times_eight(point: tuple[int, int]) -> tuple[int, int]:
        for _ in range(3):
            point = add(point, point)
        return point

    eighth = next(point for y in itertools.count(2) if (point := torsion(y, d, add)) is not None)
    found, point = set(), (0, 1)
    for _ in range(8):
        found.add(point)
        point = add(point, eighth)
    assert len(found) == 8
    assert all(times_eight(one) == (0, 1) for one in found)
    ys = {y for _, y in found}
    ys |= {y + PRIME for y in ys if y + PRIME < 1 << 255}
    return [(y | sign << 255).to_bytes(32, "little") for y in sorted(ys) for sign in (0, 1)]


def torsion(y: int, d: int, add: Any) -> tuple[int, int] | None:
    """L times the point with this y, if that has the order 8; L: the order of the base point."""
    square = (y * y - 1) * pow(d * y * y + 1, -1, PRIME) % PRIME
    x = pow(square, (PRIME + 3) // 8, PRIME)
    if x * x % PRIME != square:
        x = x * pow(2, (PRIME - 1) // 4, PRIME) % PRIME
    if x * x % PRIME != square:
        return None
    point, result = (x, y), (0, 1)
    for bit in bin((1 << 252) + 27742317777372353535851937790883648493)[2:]:
        result = add(result, result)
        if bit == "1":
            result = add(result, point)
    four = add(add(result, result), add(result, result))
    return result if four != (0, 1) else None


def test_no_point_of_small_order_is_a_key() -> None:
    points = points_of_small_order()
    assert len(points) == 14
    forged = 0
    for point in points:
        assert not is_usable(point)
        with pytest.raises(Malformed, match="small order"):
            key_from(other(point))
        signatures = [bytes([1, *bytes(63)]), point + bytes(32)]
        assert not any(verify_one(point, b"%d" % number, one) for number in range(16) for one in signatures)
        forged += accepted_by_openssl(point, signatures)
    assert forged, "the library refuses them by itself: the list is not needed any more"


def accepted_by_openssl(point: bytes, signatures: list[bytes]) -> bool:
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    for number, signature in itertools.product(range(16), signatures):
        try:
            Ed25519PublicKey.from_public_bytes(point).verify(signature, b"%d" % number)
        except InvalidSignature:
            continue
        return True
    return False


@pytest.mark.parametrize("more", range(19))
def test_no_encoding_beyond_the_field_is_a_key(more: int) -> None:
    assert not is_usable((PRIME + more).to_bytes(32, "little"))


def test_ordinary_keys_are_keys() -> None:
    assert all(is_usable(public_bytes(new_private_key())) for _ in range(100))


def test_a_mistake_in_a_key_file_has_its_line() -> None:
    text = key_text(pinned(KEY))
    for changed, where, why in (
        (text.replace("may:", "mai:"), "acme.yaml:5", "unknown key 'mai' (did you mean 'may'?)"),
        (text.replace('"license", ', '"license", "x", '), "acme.yaml:5", "'x' is not one of license, revoke"),
        (text.replace("issuer:", "# issuer:"), "acme.yaml:1", "lacks 'issuer'"),
        (text + "issuer: Other\n", "acme.yaml:6", "key 'issuer' was already given at line 2"),
        (text + "valid_from: 2026-01-01\n", "acme.yaml:6", "expected a time with an offset, found the date"),
        (text + "valid_until: soon\n", "acme.yaml:6", "valid_until: 'soon' is not a valid time"),
        (text + "\tx", "acme.yaml:6", "not YAML"),
        ("", "acme.yaml:1", "expected keys and values, found nothing"),
        ("- a\n- b\n", "acme.yaml:1", "expected keys and values, found a list"),
        ("{", "acme.yaml:1", "not YAML"),
    ):
        with pytest.raises(PolicyErrors) as raised:
            read_key(changed.encode(), "acme.yaml")
        assert str(raised.value).startswith(f"{where}: ")
        assert why in str(raised.value)


def test_a_key_file_that_is_no_text_is_told() -> None:
    with pytest.raises(PolicyErrors, match=r"acme\.yaml:1: not UTF-8 text"):
        read_key(b"issuer: \xff", "acme.yaml")
