"""License documents, revocation lists and keys as lines of text."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from datetime import UTC, datetime

from agent.cli.license.moments import utc_and_local
from agent.export.sanitize import printable
from agent.license.request import HostRequest
from agent.license.values import (
    DocumentEntitlement,
    LicenseDocument,
    RevocationList,
    RevokedLicense,
)
from agent.wording import counted, lasting, listed

Facts = list[tuple[str, str]]
INDENT = 13


def license_facts(document: LicenseDocument) -> Facts:
    """Everything in a license."""
    lock, period = document.node_lock, document.period
    facts = [
        ("license", license_name(document)),
        ("licensee", document.licensee),
        ("product", document.product),
        ("supersedes", ", ".join(document.supersedes)),
        *times(document),
        ("notices", f"{', '.join(map(str, document.notice_days))} days before expiry and termination"),
        ("hosts", f"{document.hosts:,}, reported and not enforced" if document.hosts else ""),
        ("clock", document.clock),
        ("period", f"{period.every}" + (f" from {period.start}" if period.start else "") + ", in UTC"),
        ("node lock", f"{lock.at_least} of {counted(len(lock.any_of), 'node id')}" if lock else "any host"),
        *(("", one) for one in (lock.any_of if lock else ())),
    ]
    facts += [("grants" if not at else "", _entitlement(one)) for at, one in enumerate(document.entitlements)]
    if document.extensions:
        facts.append(("extensions", printable(json.dumps(document.extensions, ensure_ascii=False))))
    return [fact for fact in facts if fact[1]]


def license_name(document: LicenseDocument) -> str:
    return f"{document.id} serial {document.serial} ({document.issuer}, {document.kind})"


def times(document: LicenseDocument) -> Facts:
    """When a license is issued, begins and ends."""
    expires, ends = document.expires_at, document.terminates_at
    facts = [("issued", utc_and_local(document.issued_at)), ("starts", utc_and_local(document.starts_at))]
    if expires is None or ends is None:
        return [*facts, ("expires", "never: it is perpetual")]
    grace = f", after {lasting(ends - expires)} of grace" if ends > expires else ", without grace"
    return [
        *facts,
        ("expires", utc_and_local(expires)),
        ("terminates", utc_and_local(ends) + grace),
    ]


def revocation_facts(revocations: RevocationList, now: datetime | None = None) -> Facts:
    """Everything in a revocation list. `now`: when it may be overdue."""
    overdue = ", overdue: ask for the next list" if now and revocations.next_update <= now else ""
    facts = [
        ("revocations", f"serial {revocations.serial} ({revocations.issuer})"),
        ("issued", utc_and_local(revocations.issued_at)),
        ("next update", utc_and_local(revocations.next_update) + overdue),
    ]
    facts += [("license" if not at else "", _revoked(one)) for at, one in enumerate(revocations.licenses)]
    facts += [("key" if not at else "", kid) for at, kid in enumerate(revocations.keys)]
    if not revocations.licenses and not revocations.keys:
        facts.append(("", "revokes nothing"))
    return facts


def request_facts(request: HostRequest) -> Facts:
    """Everything in a request."""
    return [
        ("request", f"{request.hostname}, licet {request.licet}, kernel {request.kernel}"),
        ("made", utc_and_local(request.requested_at)),
        *(("node ids" if not at else "", one) for at, one in enumerate(request.node_ids)),
        ("public key", base64.b64encode(request.public_key).decode()),
    ]


def time_warnings(document: LicenseDocument, now: datetime) -> list[str]:
    """What a vendor may not have meant."""
    expires, ends = document.expires_at, document.terminates_at
    found = []
    if document.issued_at > now:
        found.append(f"issued_at is in the future: {utc_and_local(document.issued_at)}")
    found += _never_held(document)
    if expires is None or ends is None:
        return found
    found += [
        f"{name} is in the middle of a day, {utc_and_local(moment)}; --until ends with a day"
        for name, moment in (("expires_at", expires), ("terminates_at", ends))
        if moment.astimezone(UTC).timetz().replace(tzinfo=None) != datetime.min.time()
    ]
    if ends == expires:
        found.append("a grace of nothing: use is denied from the second of expiry; --grace 31 gives 31 days")
    if expires <= now:
        found.append("it has expired already")
    return found


def _never_held(document: LicenseDocument) -> Iterator[str]:
    """Entitlements whose own time does not meet that of the license."""
    for one in document.entitlements:
        starts = max(document.starts_at, one.starts_at or document.starts_at)
        ends = [moment for moment in (document.terminates_at, one.expires_at) if moment]
        if ends and min(ends) <= starts:
            yield f"entitlement {one.id} never holds: its time is outside that of the license"


def _entitlement(one: DocumentEntitlement) -> str:
    classes = f" {', '.join(one.classes)} ports" if one.classes is not None else " every class"
    services = f" of {listed(one.services)}" if one.services is not None else " of every service"
    window = [f"from {utc_and_local(one.starts_at)}"] if one.starts_at else []
    window += [f"until {utc_and_local(one.expires_at)}"] if one.expires_at else []
    return f"{one.id}: {listed(one.principals)},{classes}{services}{''.join(f', {each}' for each in window)}"


def _revoked(one: RevokedLicense) -> str:
    if one.serials is None:
        return f"{one.id}, all serials"
    word = "serial" if len(one.serials) == 1 else "serials"
    return f"{one.id}, {word} {listed([str(serial) for serial in sorted(one.serials)])}"
