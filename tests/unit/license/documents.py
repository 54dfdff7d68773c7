"""A license, a revocation list and a key, for tests that change one thing in them."""

from __future__ import annotations

import base64
from typing import Any

from agent.license.keys import kid_of
from agent.license.signatures import PrivateKey, new_private_key, public_bytes, sign
from agent.license.values import LICENSE_TYPE, Envelope, Permission, PinnedKey, Signature

MI = "mi:" + "5f" * 32
HK = "hk:" + "9c" * 32


def license_raw(**changes: Any) -> dict[str, Any]:
    """The issue's example. A value of None leaves the field out."""
    raw: dict[str, Any] = {
        "id": "acme-2026",
        "serial": 3,
        "supersedes": ["acme-2025"],
        "issuer": "Acme",
        "licensee": "Example Ltd",
        "product": "acme-orders",
        "kind": "production",
        "issued_at": "2026-01-01T00:00:00Z",
        "starts_at": "2026-01-01T00:00:00Z",
        "expires_at": "2027-01-01T00:00:00Z",
        "terminates_at": "2027-02-01T00:00:00Z",
        "notice_days": [60, 30, 14, 7, 1],
        "node_lock": {"any_of": [MI, HK], "at_least": 1},
        "hosts": 4,
        "clock": "lenient",
        "period": {"every": "month", "from": "2026-01-01"},
        "entitlements": [{"id": "app", "classes": ["internal"], "principals": ["billing"]}],
        "extensions": {"order": "4711"},
    }
    return {key: value for key, value in (raw | changes).items() if value is not None}


def entitlement_raw(**changes: Any) -> dict[str, Any]:
    """A license with one entitlement, in which these fields are changed."""
    raw = {"id": "app", "principals": ["billing"]} | changes
    return license_raw(entitlements=[{key: value for key, value in raw.items() if value is not None}])


def revocations_raw(**changes: Any) -> dict[str, Any]:
    raw: dict[str, Any] = {
        "issuer": "Acme",
        "serial": 1,
        "issued_at": "2026-01-01T00:00:00Z",
        "next_update": "2026-02-01T00:00:00Z",
        "licenses": [{"id": "acme-2025", "serials": "all"}, {"id": "acme-2026", "serials": [1, 2]}],
        "keys": ["ab" * 32],
    }
    return {key: value for key, value in (raw | changes).items() if value is not None}


def key_raw(key: bytes, **changes: Any) -> dict[str, Any]:
    raw = {
        "kid": kid_of(key),
        "issuer": "Acme",
        "products": ["acme-orders"],
        "public_key": base64.b64encode(key).decode(),
        "may": ["license", "revoke"],
    }
    return {key: value for key, value in (raw | changes).items() if value is not None}


def pinned(key: PrivateKey, **changes: Any) -> PinnedKey:
    public_key = public_bytes(key)
    values: dict[str, Any] = {
        "kid": kid_of(public_key),
        "issuer": "Acme",
        "products": ("acme-orders",),
        "public_key": public_key,
        "may": frozenset(Permission),
    }
    return PinnedKey(**(values | changes))


def signed(payload: bytes, *keys: PrivateKey, payload_type: str = LICENSE_TYPE) -> Envelope:
    """By each of the keys; by one of its own if there are none."""
    message = Envelope(payload_type, payload, ()).message
    signers = keys or (new_private_key(),)
    return Envelope(
        payload_type,
        payload,
        tuple(Signature(kid_of(public_bytes(key)), sign(key, message)) for key in signers),
    )
