"""Public keys of vendors, as the operator pins them."""

from __future__ import annotations

import base64
import hashlib
import json

from agent.license import fields
from agent.license.curve import PUBLIC_KEY_BYTES, is_usable
from agent.license.envelope import from_base64
from agent.license.fields import Item, Mistake, choice, found, instant, item, key_id, listed, name, text
from agent.license.values import MOST_NAMES, Permission, PinnedKey
from agent.model import show_time

_KEY = ("kid", "issuer", "products", "public_key", "may", "valid_from", "valid_until")
_NO_KEY = "get the key file anew from its vendor"


def kid_of(public_key: bytes) -> str:
    """The key id: hex SHA-256 of the raw key."""
    return hashlib.sha256(public_key).hexdigest()


def key_from(raw: object) -> PinnedKey:
    """A key from plain values, of YAML. Raises Malformed, with the location."""
    with fields.malformed():
        return _key(item(raw, _KEY))


def key_text(key: PinnedKey) -> str:
    """The YAML file to pin."""
    written = {
        "kid": key.kid,
        "issuer": key.issuer,
        "products": list(key.products),
        "public_key": base64.b64encode(key.public_key).decode(),
        "may": sorted(key.may),
        "valid_from": key.valid_from and show_time(key.valid_from),
        "valid_until": key.valid_until and show_time(key.valid_until),
    }
    # JSON values are YAML, and quoted text stays text
    return "".join(
        f"{field}: {json.dumps(value, ensure_ascii=False)}\n" for field, value in written.items() if value
    )


def _key(of: Item) -> PinnedKey:
    public_key = of.need("public_key", _public_key)
    kid = of.need("kid", key_id)
    if kid != kid_of(public_key):
        raise Mistake("kid is not the SHA-256 of public_key", _NO_KEY, ("kid",))
    may = frozenset(of.need("may", listed(choice(Permission), MOST_NAMES)))
    read_products = listed(name, MOST_NAMES)
    if Permission.LICENSE in may:
        products = of.need("products", read_products)
    else:
        products = of.get("products", read_products, ())
    valid_from, valid_until = of.get("valid_from", instant, None), of.get("valid_until", instant, None)
    if valid_from and valid_until and valid_until <= valid_from:
        raise Mistake("valid_until is not after valid_from", "swap or correct them", ("valid_until",))
    return PinnedKey(
        kid=kid,
        issuer=of.need("issuer", text),
        products=products,
        public_key=public_key,
        may=may,
        valid_from=valid_from,
        valid_until=valid_until,
    )


def _public_key(value: object) -> bytes:
    if not isinstance(value, str):
        raise Mistake(f"expected base64 of {PUBLIC_KEY_BYTES} bytes, found {found(value)}", _NO_KEY)
    try:
        public_key = from_base64(value)
    except ValueError as error:
        raise Mistake(f"{error}", _NO_KEY) from error
    if len(public_key) != PUBLIC_KEY_BYTES:
        raise Mistake(f"{len(public_key)} bytes, and an Ed25519 key has {PUBLIC_KEY_BYTES}", _NO_KEY)
    if not is_usable(public_key):
        raise Mistake("a point of small order: anybody could sign with it", _NO_KEY)
    return public_key
