"""Payloads of license documents: JSON to values, and back. Templates go through the same checks."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from agent.license import fields, license_item, revocations_item, strict_json
from agent.license.values import (
    LICENSE_TYPE,
    NOTICE_DAYS,
    REVOCATIONS_TYPE,
    ClockRule,
    DocumentEntitlement,
    Envelope,
    LicenseDocument,
    Malformed,
    Period,
    RevocationList,
)
from agent.model import show_time


def read_document(envelope: Envelope) -> LicenseDocument | RevocationList:
    """What the payload says, whether or not it is signed. Raises Malformed."""
    if envelope.payload_type == LICENSE_TYPE:
        return read_license(envelope.payload)
    if envelope.payload_type == REVOCATIONS_TYPE:
        return read_revocations(envelope.payload)
    raise Malformed(
        f"payload type {fields.found(envelope.payload_type)} is not known",
        f"this version knows {LICENSE_TYPE} and {REVOCATIONS_TYPE}",
        ("payloadType",),
    )


def read_license(payload: bytes) -> LicenseDocument:
    """Raises Malformed."""
    return license_from(strict_json.parse(payload))


def read_revocations(payload: bytes) -> RevocationList:
    """Raises Malformed."""
    return revocations_from(strict_json.parse(payload))


def license_from(raw: object) -> LicenseDocument:
    """A license from plain values, of JSON or YAML. Raises Malformed, with the location."""
    with fields.malformed():
        return license_item.read(raw)


def revocations_from(raw: object) -> RevocationList:
    """A revocation list from plain values, of JSON or YAML. Raises Malformed, with the location."""
    with fields.malformed():
        return revocations_item.read(raw)


def license_payload(document: LicenseDocument) -> bytes:
    """Compact JSON that read_license() reads back to the same value."""
    lock, period = document.node_lock, document.period
    return _compact(
        {
            "id": document.id,
            "serial": document.serial,
            "supersedes": list(document.supersedes) or None,
            "issuer": document.issuer,
            "licensee": document.licensee,
            "product": document.product,
            "kind": document.kind,
            "issued_at": show_time(document.issued_at),
            "starts_at": show_time(document.starts_at),
            "expires_at": _time(document.expires_at),
            "terminates_at": _time(document.terminates_at),
            "notice_days": list(document.notice_days) if document.notice_days != NOTICE_DAYS else None,
            "node_lock": {"any_of": list(lock.any_of), "at_least": lock.at_least} if lock else None,
            "hosts": document.hosts,
            "clock": document.clock if document.clock != ClockRule.LENIENT else None,
            "period": _some({"every": period.every, "from": period.start and period.start.isoformat()})
            if period != Period()
            else None,
            "entitlements": [_entitlement_raw(one) for one in document.entitlements],
            "extensions": dict(document.extensions) or None,
        }
    )


def revocations_payload(revocations: RevocationList) -> bytes:
    """Compact JSON that read_revocations() reads back to the same value."""
    return _compact(
        {
            "issuer": revocations.issuer,
            "serial": revocations.serial,
            "issued_at": show_time(revocations.issued_at),
            "next_update": show_time(revocations.next_update),
            "licenses": [
                {"id": one.id, "serials": "all" if one.serials is None else sorted(one.serials)}
                for one in revocations.licenses
            ],
            "keys": list(revocations.keys),
        }
    )


def _compact(raw: dict[str, Any]) -> bytes:
    return json.dumps(_some(raw), ensure_ascii=False, separators=(",", ":")).encode()


def _some(raw: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in raw.items() if value is not None}


def _time(moment: datetime | None) -> str | None:
    return None if moment is None else show_time(moment)


def _entitlement_raw(entitlement: DocumentEntitlement) -> dict[str, Any]:
    return _some(
        {
            "id": entitlement.id,
            "classes": None if entitlement.classes is None else list(entitlement.classes),
            "services": None if entitlement.services is None else list(entitlement.services),
            "principals": list(entitlement.principals),
            "starts_at": _time(entitlement.starts_at),
            "expires_at": _time(entitlement.expires_at),
        }
    )
