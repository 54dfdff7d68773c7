"""Licenses that are written in the policy, beside documents with the same id and product: which of them give
way. Whether there is room is not asked here."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from agent.license.report import DocumentReport, State
from agent.license.standing import HOLDS
from agent.license.values import LicenseDocument
from agent.model import show_utc
from agent.policy.values import Finding, License, Policy

Named = tuple[str, str]
"""Id and product of a license."""


def named(one: License | LicenseDocument) -> Named:
    return one.id, one.product


def holds(report: DocumentReport) -> bool:
    return report.standing.state in HOLDS


def giving_way(policy: Policy, reports: Iterable[DocumentReport]) -> dict[Named, str]:
    """The inline licenses that a document is used instead of, each with its file. The document holds, or it
    has held on this host: its end and its revocation count, too.

    Until then the inline license goes on beside it, so that no document locks out before it grants."""
    inline = {named(one) for one in policy.licenses}
    found: dict[Named, str] = {}
    for report, document in _verified(sorted(reports, key=holds, reverse=True)):
        if named(document) in inline and (holds(report) or _held_before(report)):
            found.setdefault(named(document), report.file)
    return found


def given_way(license_: License, file: str) -> Finding:
    """What there is to do about an inline license that gave way."""
    reason = f"license '{license_.id}' is also a signed one: the document {file} is used instead"
    return Finding(license_.place, reason, "remove it here")


def goes_on(license_: License, reports: Sequence[DocumentReport]) -> Iterator[Finding]:
    """What there is to know about an inline license that goes on beside documents that do not hold."""
    for report, document in _verified(reports):
        if named(document) != named(license_) or holds(report):
            continue
        also = f"license '{license_.id}' is also a signed one"
        if report.standing.state is State.NOT_YET_VALID:
            begins = show_utc(document.starts_at)
            reason = f"{also}: the document {report.file} is used instead once it has begun ({begins})"
            yield Finding(license_.place, reason, "keep it here until then")
        else:
            reason = f"{also}, but the document {report.file} is not used: {report.standing.state}"
            yield Finding(license_.place, reason, "keep it here until a document holds")


def _held_before(report: DocumentReport) -> bool:
    """False again while it has not begun: a wrong clock that was corrected had let it begin too early."""
    return report.has_held and report.standing.state is not State.NOT_YET_VALID


def _verified(reports: Iterable[DocumentReport]) -> Iterator[tuple[DocumentReport, LicenseDocument]]:
    for report in reports:
        if report.verified and isinstance(report.document, LicenseDocument):
            yield report, report.document
