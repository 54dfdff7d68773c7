"""Keys and values to a license: every check that needs nothing but the document."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from agent.license import fields, strict_json
from agent.license.fields import Mistake, check_ids, choice, instant, item, listed, name, text, whole
from agent.license.values import (
    MOST_ENTITLEMENTS,
    MOST_NAMES,
    MOST_NODE_IDS,
    MOST_NOTICE_DAYS,
    MOST_NOTICES,
    NOTICE_DAYS,
    ClockRule,
    DocumentEntitlement,
    Every,
    Kind,
    LicenseDocument,
    Malformed,
    NodeLock,
    Period,
)
from agent.model import PortClass

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
_names = listed(name, MOST_NAMES)


def read(raw: object) -> LicenseDocument:
    """Raises Mistake."""
    of = item(raw, _LICENSE, _LATER)
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
        notice_days=of.get(
            "notice_days",
            listed(whole(1, MOST_NOTICE_DAYS), MOST_NOTICES, instead="leave some out"),
            NOTICE_DAYS,
        ),
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
        raise Mistake("an evaluation without expires_at", "add it, or issue with --until DAY", ("kind",))
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
            "grace starts at expires_at and ends at terminates_at; issue sets it with --grace DAYS",
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
    check_ids([one.id for one in found], "entitlement")
    return found


def _entitlement(raw: object) -> DocumentEntitlement:
    of = item(raw, _ENTITLEMENT, _LATER)
    found = DocumentEntitlement(
        id=of.need("id", name),
        principals=of.need("principals", _names),
        services=of.get("services", _names, None),
        classes=of.get("classes", listed(choice(PortClass), MOST_NAMES), None),
        starts_at=of.get("starts_at", instant, None),
        expires_at=of.get("expires_at", instant, None),
    )
    _check_window(found.starts_at, found.expires_at)
    return found
