"""Joins license documents to a policy. A document that does not fit is left out whole, with a finding; it
never makes the policy an error."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime

from agent.license.report import DocumentReport, State
from agent.license.values import DocumentEntitlement, LicenseDocument
from agent.model import Reason
from agent.policy.document.coverage import coverage_findings
from agent.policy.document.inline import Named, given_way, giving_way, goes_on, holds, named
from agent.policy.document.room import Parts, Room, Tables, parts_of
from agent.policy.values import (
    ANYONE,
    Entitlement,
    Finding,
    License,
    Place,
    Policy,
    Window,
)
from agent.wording import counted, did_you_mean

REASONS = {
    State.UNKNOWN_KEY: Reason.UNKNOWN_KEY,
    State.BAD_SIGNATURE: Reason.BAD_SIGNATURE,
    State.REVOKED: Reason.REVOKED,
    State.SUPERSEDED: Reason.SUPERSEDED,
    State.NODE_MISMATCH: Reason.NODE_MISMATCH,
    State.CLOCK_ROLLBACK: Reason.CLOCK_ROLLBACK,
}
"""States that deny whatever the time is. `not_yet_valid` and `expired` follow from a license's window."""
_NO_CANDIDATES = frozenset({State.MALFORMED, State.UNVERIFIED})
_SHOWN = 3
"""As many undefined names of one entitlement are reported."""


@dataclass(frozen=True, slots=True)
class Joined:
    """A policy with license documents, its warnings included. `left_out`: by file, why a document that holds
    is not in force."""

    policy: Policy
    left_out: dict[str, str] = field(default_factory=dict)


def join(
    policy: Policy,
    reports: Sequence[DocumentReport],
    now: datetime,
    *,
    require_signed: bool = False,
    tables: Tables | None = None,
) -> Joined:
    """The policy with the licenses of these documents behind its own, in file order; verified ones first.
    `now`: license time. A document that has not begun takes no room from one that holds.

    An inline license gives way to a document (`giving_way`), unless that one has no room.
    `require_signed`: inline licenses grant nothing. `tables`: what else a document has to fit into."""
    ranked = sorted(reports, key=_rank)
    kept: set[Named] = set()
    while True:
        joining = _joining(policy, ranked, now, kept, Room(policy, tables), require_signed=require_signed)
        homeless = {named(one) for one in policy.licenses} & joining.homeless - joining.holding - kept
        if not homeless:
            return _joined(policy, joining)
        kept |= homeless


def _rank(report: DocumentReport) -> tuple[bool, bool, str]:
    return not report.verified, report.standing.state is State.NOT_YET_VALID, report.file


def _can_grant(report: DocumentReport) -> bool:
    """True if it grants, now or later. Where it only denies, its names and its room need no remedy."""
    return report.verified and (holds(report) or report.standing.state is State.NOT_YET_VALID)


def _joining(
    policy: Policy,
    ranked: Sequence[DocumentReport],
    now: datetime,
    kept: Collection[Named],
    room: Room,
    *,
    require_signed: bool,
) -> _Joining:
    """`kept`: inline licenses that give way to no document."""
    joining = _Joining(policy, now, room)
    instead = {one: file for one, file in giving_way(policy, ranked).items() if one not in kept}
    for license_ in policy.licenses:
        if named(license_) in instead:
            joining.findings.append(given_way(license_, instead[named(license_)]))
            continue
        joining.inline(replace(license_, state=Reason.BAD_SIGNATURE) if require_signed else license_)
        if not require_signed:
            joining.findings += goes_on(license_, ranked)
    if require_signed and joining.licenses:
        count = (
            f"{counted(len(joining.licenses), 'license')} of the policy: not signed, so nothing is granted"
        )
        remedy = "have them issued as documents, or set require_signed: false"
        joining.findings.append(Finding(joining.licenses[0].place, count, remedy))
    for report in ranked:
        if isinstance(report.document, LicenseDocument) and report.standing.state not in _NO_CANDIDATES:
            joining.document(report, report.document)
    return joining


def _joined(policy: Policy, joining: _Joining) -> Joined:
    documents = sorted(joining.documents, key=lambda one: (not one.is_verified, one.place.file))
    licenses = (*joining.licenses, *documents)
    joined = replace(policy, licenses=licenses, warnings=())
    past, now_uncovered = set(_coverage(policy)), _coverage(joined)
    warnings = [one for one in policy.warnings if one not in past] + [*now_uncovered, *joining.findings]
    return Joined(replace(joined, warnings=tuple(warnings)), joining.left_out)


def _coverage(policy: Policy) -> list[Finding]:
    services, principals = list(policy.services.values()), policy.principals.values()
    return coverage_findings(services, principals, policy.licenses, policy.exclusions)


@dataclass(slots=True)
class _Joining:
    policy: Policy
    now: datetime
    room: Room
    licenses: list[License] = field(default_factory=list)
    """Those of the policy."""
    documents: list[License] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    holding: set[Named] = field(default_factory=set)
    """Licenses of which a document that holds was taken."""
    homeless: set[Named] = field(default_factory=set)
    """Licenses of which a document that holds was left out."""

    def inline(self, license_: License) -> None:
        """Take a license of the policy, which was checked with it."""
        self._take(license_, parts_of(license_, self.now), self.licenses)

    def document(self, report: DocumentReport, document: LicenseDocument) -> None:
        """Take a document, unless it does not fit."""
        license_ = self._license(report, document)
        parts = parts_of(license_, self.now)
        if same := self._same(license_):
            self.left_out[report.file] = f"{same} is the same document"
            self._find(report, f"left out: {same} is the same document", "remove one of them")
        elif why := self.room.misfit(parts):
            if report.verified and parts.able:
                self._leave_out(report, document, why)
            return
        elif parts.able and self.room.misfit_of_ended(parts):
            self._take(parts.able, Parts(parts.able, None), self.documents)
        else:
            self._take(license_, parts, self.documents)
        if holds(report):
            self.holding.add(named(document))

    def _leave_out(self, report: DocumentReport, document: LicenseDocument, why: str) -> None:
        self.left_out[report.file] = why
        self._find(report, f"left out: {why}", "merge principals, or remove documents that have ended")
        if holds(report):
            self.homeless.add(named(document))

    def _same(self, license_: License) -> str:
        """The file that has brought this document in already, in the same state; "" if none has."""
        key = license_.document, license_.state
        alike = (one for one in self.documents if one.is_verified and (one.document, one.state) == key)
        return next((one.place.file for one in alike if license_.is_verified), "")

    def _take(self, license_: License, parts: Parts, to: list[License]) -> None:
        to.append(license_)
        self.room.take(parts)

    def _license(self, report: DocumentReport, document: LicenseDocument) -> License:
        place = Place(report.file)
        if _can_grant(report) and not self.room.services(document.product):
            products = {service.product for service in self.policy.services.values()}
            self._find(
                report,
                f"license '{document.id}' is for product '{document.product}', which no service has",
                did_you_mean(document.product, products, "give a service this product"),
            )
        entitlements = (self._entitlement(report, document, each, place) for each in document.entitlements)
        return License(
            id=document.id,
            place=place,
            product=document.product,
            licensee=document.licensee,
            window=Window(document.starts_at, document.expires_at, document.terminates_at),
            entitlements=tuple(one for one in entitlements if one.principals),
            state=REASONS.get(report.standing.state),
            document=document,
            is_verified=report.verified,
        )

    def _entitlement(
        self, report: DocumentReport, document: LicenseDocument, one: DocumentEntitlement, place: Place
    ) -> Entitlement:
        """Names that the policy does not define are left out: they grant nobody anything."""
        what = f"license '{document.id}', entitlement '{one.id}'"
        known = [*self.policy.principals, ANYONE]
        principals = [name for name in one.principals if name == ANYONE or name in self.policy.principals]
        if _can_grant(report):
            self._undefined(report, f"{what} names principal", one.principals, known)
            self._undefined(report, f"{what} names service", one.services or (), list(self.policy.services))
            self._of_other_products(report, what, one.services or (), document.product)
        if not report.verified:
            principals = [name for name in principals if not self.room.adds_clause(name)]
        return Entitlement(
            one.id,
            place,
            tuple(principals),
            one.services,
            one.classes,
            Window(one.starts_at, one.expires_at, one.expires_at),
        )

    def _undefined(
        self, report: DocumentReport, what: str, names: Iterable[str], known: Collection[str]
    ) -> None:
        defined = set(known)
        undefined = [name for name in names if name not in defined]
        for name in undefined[:_SHOWN]:
            more = f" (and {len(undefined) - 1} more)" if len(undefined) > _SHOWN else ""
            reason = f"{what} '{name}'{more}, which the policy does not define"
            self._find(report, reason, did_you_mean(name, known, "define it"))

    def _of_other_products(
        self, report: DocumentReport, what: str, names: Iterable[str], product: str
    ) -> None:
        for name in names:
            service = self.policy.services.get(name)
            if service and service.product != product:
                reason = f"{what}: service '{name}' is of product '{service.product}', and gets nothing"
                self._find(report, reason, f"the license is for product '{product}'")
                return

    def _find(self, report: DocumentReport, reason: str, remedy: str) -> None:
        self.findings.append(Finding(Place(report.file), reason, remedy))
