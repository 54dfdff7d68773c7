"""Payloads of license documents: JSON to values, and back. Templates go through the same checks."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

from agent.license import fields, strict_json
from agent.license.fields import Item, Mistake, choice, instant, item, key_id, listed, name, text, whole
from agent.license.values import (
    LICENSE_TYPE,
    MOST_ENTITLEMENTS,
    MOST_NAMES,
    MOST_NODE_IDS,
    MOST_NOTICE_DAYS,
    MOST_NOTICES,
    MOST_REVOKED,
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
from agent.model import PortClass, show_time

_LICENSE = (
    "id",
    "serial",
    "supersedes",
    "issuer",
    "licensee",
    "product",
    "kind",
    "issued_at",
    "starts_at",
    "expires_at",
    "terminates_at",
    "notice_days",
    "node_lock",
    "hosts",
    "clock",
    "period",
    "entitlements",
    "extensions",
)
_ENTITLEMENT = ("id", "classes", "services", "principals", "starts_at", "expires_at")
_LATER = ("seats", "requires", "count_by", "max")
_REVOCATIONS = ("issuer", "serial", "issued_at", "next_update", "licenses", "keys")

_names = listed(name, MOST_NAMES)


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
        return _license(item(raw, _LICENSE, _LATER))


def revocations_from(raw: object) -> RevocationList:
    """A revocation list from plain values, of JSON or YAML. Raises Malformed, with the location."""
    with fields.malformed():
        return _revocations(item(raw, _REVOCATIONS))


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


def _license(of: Item) -> LicenseDocument:
    issued_at = of.need("issued_at", instant)
    starts_at = of.get("starts_at", instant, issued_at)
    expires_at = of.get("expires_at", instant, None)
    terminates_at = of.get("terminates_at", instant, None)
    document = LicenseDocument(
        id=of.need("id", name),
        serial=of.need("serial", whole(1)),
        supersedes=of.get("supersedes", _names, ()),
        issuer=of.need("issuer", text),
        licensee=of.need("licensee", text),
        product=of.need("product", name),
        kind=of.need("kind", choice(Kind)),
        issued_at=issued_at,
        starts_at=starts_at,
        expires_at=expires_at,
        terminates_at=expires_at if terminates_at is None else terminates_at,
        notice_days=of.get("notice_days", listed(whole(1, MOST_NOTICE_DAYS), MOST_NOTICES), NOTICE_DAYS),
        node_lock=of.get("node_lock", _node_lock, None),
        hosts=of.get("hosts", whole(1), None),
        clock=of.get("clock", choice(ClockRule), ClockRule.LENIENT),
        period=of.get("period", _period, Period()),
        entitlements=of.need("entitlements", _entitlements),
        extensions=of.get("extensions", _extensions, {}),
    )
    _check_license(document)
    return document


def _check_license(document: LicenseDocument) -> None:
    if document.id in document.supersedes:
        at = document.supersedes.index(document.id)
        raise Mistake(
            f"supersedes: '{document.id}' is the license itself",
            "remove it: a higher serial supersedes a lower one",
            ("supersedes", at),
        )
    if document.kind == Kind.EVALUATION and document.expires_at is None:
        raise Mistake("an evaluation without expires_at", "say when it ends", ("kind",))
    _check_window(document.starts_at, document.expires_at)
    if document.terminates_at is None:
        return
    if document.expires_at is None:
        raise Mistake(
            "terminates_at without expires_at",
            "grace is the time between the two: give both",
            ("terminates_at",),
        )
    if document.terminates_at < document.expires_at:
        raise Mistake(
            "terminates_at is before expires_at",
            "grace starts at expires_at and ends at terminates_at",
            ("terminates_at",),
        )


def _check_window(starts_at: datetime | None, expires_at: datetime | None) -> None:
    if starts_at and expires_at and expires_at <= starts_at:
        raise Mistake(
            "expires_at is not after starts_at",
            "such a window never holds; without starts_at it begins at issued_at",
            ("expires_at",),
        )


def _node_lock(raw: object) -> NodeLock:
    of = item(raw, ("any_of", "at_least"))
    ids = of.need("any_of", listed(fields.node_id, MOST_NODE_IDS))
    return NodeLock(ids, of.get("at_least", whole(1, len(ids)), 1))


def _period(raw: object) -> Period:
    of = item(raw, ("every", "from"))
    return Period(of.need("every", choice(Every)), of.get("from", fields.day, None))


def _extensions(raw: object) -> dict[str, Any]:
    if not isinstance(raw, dict):
        raise Mistake(f"expected keys and values, found {fields.found(raw)}", "write {…}")
    try:
        strict_json.check(raw, 1)
    except Malformed as error:
        raise Mistake(error.reason, error.remedy, error.location) from error
    return raw


def _entitlements(raw: object) -> tuple[DocumentEntitlement, ...]:
    found = listed(_entitlement, MOST_ENTITLEMENTS)(raw)
    _check_ids([one.id for one in found], "entitlement")
    return found


def _entitlement(raw: object) -> DocumentEntitlement:
    of = item(raw, _ENTITLEMENT, _LATER)
    found = DocumentEntitlement(
        id=of.need("id", name),
        principals=of.need("principals", _names),
        services=of.get("services", _names, None),
        classes=of.get("classes", listed(choice(PortClass), len(PortClass)), None),
        starts_at=of.get("starts_at", instant, None),
        expires_at=of.get("expires_at", instant, None),
    )
    _check_window(found.starts_at, found.expires_at)
    return found


def _revocations(of: Item) -> RevocationList:
    revocations = RevocationList(
        issuer=of.need("issuer", text),
        serial=of.need("serial", whole(1)),
        issued_at=of.need("issued_at", instant),
        next_update=of.need("next_update", instant),
        licenses=of.get("licenses", _revoked_licenses, ()),
        keys=of.get("keys", listed(key_id, MOST_REVOKED, least=0), ()),
    )
    if revocations.next_update <= revocations.issued_at:
        raise Mistake(
            "next_update is not after issued_at", "say when the next list will come", ("next_update",)
        )
    return revocations


def _revoked_licenses(raw: object) -> tuple[RevokedLicense, ...]:
    found = listed(_revoked_license, MOST_REVOKED, least=0)(raw)
    _check_ids([one.id for one in found], "license")
    return found


def _revoked_license(raw: object) -> RevokedLicense:
    of = item(raw, ("id", "serials"))
    return RevokedLicense(of.need("id", name), of.need("serials", _serials))


def _serials(raw: object) -> frozenset[int] | None:
    if raw == "all":
        return None
    if not isinstance(raw, list):
        raise Mistake(f"{fields.found(raw)} is neither a list nor all", 'write "all", or a list of serials')
    return frozenset(listed(whole(1, MOST_SERIAL), MOST_REVOKED)(raw))


def _check_ids(ids: list[str], what: str) -> None:
    seen: set[str] = set()
    for at, one in enumerate(ids):
        if one in seen:
            raise Mistake(f"{what} '{one}' is listed twice", "rename or remove one", (at, "id"), f"[{at}]")
        seen.add(one)
