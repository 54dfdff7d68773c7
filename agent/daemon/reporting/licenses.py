"""What is known of each license, and warnings of the policy in force."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from agent.daemon.policy_sync.joiner import CompiledFrom
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.export.licenses import BY_TIME, HOLDS, License, Licenses, Revocations
from agent.license.clock import Moment
from agent.license.report import DocumentReport, RevocationsReport, Standing, State
from agent.license.times import Times
from agent.license.values import LicenseDocument, RevocationList
from agent.policy import values
from agent.policy.validity import IN_FORCE, Term, ended, terms_of, validity_of

NOT_SIGNED = "it is not signed, and require_signed is set"


@dataclass(frozen=True, slots=True)
class LicenseReports:
    """Reads what the policy in force was compiled from. Callable in any thread."""

    keeper: PolicyKeeper

    @property
    def version(self) -> object:
        """Another object with each generation of tables; None before the first."""
        return self.keeper.compiled_from

    @property
    def moment(self) -> Moment:
        return self.keeper.documents.moment

    def now(self) -> Licenses:
        """All licenses, by the time of now."""
        keeper = self.keeper
        policy, compiled_from = keeper.licensed_by()
        moment = self.moment
        sources = compiled_from or CompiledFrom(reports=keeper.documents.reports)
        licenses = policy.licenses if policy else ()
        listing = _Listing(moment, licenses, sources)
        return Licenses(
            moment,
            keeper.joiner.require_signed,
            tuple(listing.licenses()),
            tuple(_revocations(moment, sources.reports, keeper.documents.revocations)),
            keeper.documents.node_ids,
            Counter(one.standing.state for one in keeper.documents.reports if not one.is_copy),
        )


@dataclass(frozen=True, slots=True)
class _Listing:
    moment: Moment
    in_force: Sequence[values.License]
    """The licenses in the kernel's tables."""
    sources: CompiledFrom

    def licenses(self) -> Iterator[License]:
        unsigned = {one.id: one for one in self.in_force if one.document is None}
        signed = [one for one in self.in_force if _grants(one)]
        verified = [one for one in self.in_force if one.document and one.is_verified]
        files = {one.id: one.place.file for one in sorted(verified, key=self._holds)}
        for license_ in self.sources.unsigned:
            yield self._unsigned(license_, unsigned.get(license_.id), files.get(license_.id, "with its id"))
        for report in self.sources.reports:
            if not isinstance(report.document, RevocationList):
                of_file = (one for one in signed if one.place.file == report.file)
                yield self._signed(
                    report, next((one for one in of_file if one.document == report.document), None)
                )

    def _holds(self, document: values.License) -> bool:
        return validity_of(document, self.moment) in IN_FORCE

    def _unsigned(self, license_: values.License, in_force: values.License | None, document: str) -> License:
        """A license of the policy. `document`: the file of the document that is used instead of it."""
        window = license_.window
        times = Times(window.starts_at, window.expires_at, window.ends_at)
        state, why = times.state(self.moment), ""
        if in_force is None:
            state, why = State.SUPERSEDED, f"the document {document} is used instead"
        elif in_force.state is not None:
            state, why = State(in_force.state.name.lower()), NOT_SIGNED
        return License(
            state,
            id=license_.id,
            licensee=license_.licensee,
            product=license_.product,
            rule=str(license_.place),
            why=why,
            validity=times.state(self.moment),
            in_force=state in HOLDS,
            times=times,
            next=times.next(self.moment) if state in BY_TIME else None,
            terms=_terms(in_force) if in_force and in_force.state is None else (),
        )

    def _begins_later(self, file: str) -> bool:
        reports = (one for one in self.sources.reports if one.file == file and not one.is_copy)
        return any(one.standing.state is State.NOT_YET_VALID for one in reports)

    def _signed(self, report: DocumentReport, in_tables: values.License | None) -> License:
        file = License(
            report.standing.state,
            file=report.file,
            rule=report.file,
            signed=True,
            verified=report.verified,
            key=report.kid,
            why=report.standing.why,
            is_copy=report.is_copy,
            waits_for_file=report.is_copy and self._begins_later(report.file),
        )
        document = report.document
        if not isinstance(document, LicenseDocument):
            return file
        times = Times(document.starts_at, document.expires_at, document.terminates_at)
        validity = times.state(self.moment)
        state = validity if file.state in BY_TIME else file.state
        return replace(
            file,
            state=state,
            id=document.id,
            serial=document.serial,
            issuer=document.issuer,
            licensee=document.licensee,
            product=document.product,
            kind=document.kind.value,
            validity=validity if report.verified else None,
            in_force=in_tables is not None and state in HOLDS,
            left_out=self.sources.left_out.get(report.file, "")
            if state in BY_TIME and in_tables is None
            else "",
            issued_at=document.issued_at,
            times=times,
            next=times.next(self.moment) if state in BY_TIME else None,
            hosts=document.hosts,
            node_locked=document.node_lock is not None,
            supersedes=document.supersedes,
            notice_days=document.notice_days,
            terms=_terms(in_tables) if in_tables else (),
            extensions=document.extensions if report.verified else {},
        )


def _terms(license_: values.License) -> tuple[Term, ...]:
    return tuple(terms_of([license_]))


def _grants(license_: values.License) -> bool:
    return license_.document is not None and license_.state is None and license_.is_verified


def _revocations(
    moment: Moment, reports: Iterable[DocumentReport], in_force: Iterable[RevocationsReport]
) -> Iterator[Revocations]:
    """Those of files, and behind them those in force whose file is gone."""
    newest = {one.listed: one for one in in_force}
    of_files = [one for one in reports if isinstance(one.document, RevocationList)]
    told = {one.document for one in of_files if one.standing.state is State.VALID}
    kept = [_report(one) for listed, one in newest.items() if listed not in told]
    for report, is_kept in (*((one, False) for one in of_files), *((one, True) for one in kept)):
        listed = report.document
        assert isinstance(listed, RevocationList)
        yield Revocations(
            report.file,
            listed.issuer,
            listed.serial,
            report.standing.state,
            listed.issued_at,
            listed.next_update,
            verified=report.verified,
            key=report.kid,
            why=report.standing.why,
            in_force=report.standing.state is State.VALID,
            is_overdue=moment.license >= listed.next_update,
            is_kept=is_kept,
            licenses=len(listed.licenses),
            keys=len(listed.keys),
        )


def _report(kept: RevocationsReport) -> DocumentReport:
    standing = Standing(State.VALID, "its file is gone; what it revokes stays so")
    return DocumentReport(kept.file, kept.listed, standing, verified=True, kid=kept.kid)


def warnings_now(keeper: PolicyKeeper) -> Sequence[object]:
    """Of licenses that have ended or are in grace, of the policy in force, and of the folders now."""
    policy = keeper.policy
    holding = [one for one in policy.licenses if one.state is None and one.is_verified] if policy else []
    past = ended(holding, keeper.documents.moment)
    return tuple(dict.fromkeys((*past, *keeper.warnings, *keeper.documents.findings)))
