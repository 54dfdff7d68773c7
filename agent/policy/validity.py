"""Whether licenses, and entitlements with a window of their own, hold at a time; in words for people."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum

from agent.license.clock import Moment
from agent.license.times import Times
from agent.model import Reason, show_time, show_utc
from agent.policy.values import Finding, License, Place, Window


class Validity(StrEnum):
    NOT_YET_VALID = "not_yet_valid"
    VALID = "valid"
    GRACE = "grace"
    EXPIRED = "expired"


IN_FORCE = frozenset({Validity.VALID, Validity.GRACE})


@dataclass(frozen=True, slots=True)
class Term:
    """The time in which a license, or one entitlement of it, holds."""

    license: str
    entitlement: str
    """Empty: the license as a whole."""
    place: Place
    window: Window

    @property
    def times(self) -> Times:
        return Times(self.window.starts_at, self.window.expires_at, self.window.ends_at)

    def at(self, now: Moment) -> Validity:
        """The state at a time, by the same rules as bpf/lib/decide.h."""
        return Validity(self.times.state(now).value)

    def fields(self, validity: Validity) -> dict[str, str | None]:
        """The fields in JSON, wherever a license is reported."""
        expires, ends = self.window.expires_at, self.window.ends_at
        return {
            "validity": validity.value,
            "expires_at": show_time(expires) if expires else None,
            "terminates_at": show_time(ends) if ends else None,
        }

    def said(self, validity: Validity) -> str:
        """A sentence with the time that matters."""
        name = f"license '{self.license}'"
        if self.entitlement:
            name += f", entitlement '{self.entitlement}'"
        match validity:
            case Validity.EXPIRED:
                return f"{name} ended at {_shown(self.window.ends_at)}: it licenses no consumer"
            case Validity.GRACE:
                grace = f"{name} expired at {_shown(self.window.expires_at)}: grace"
                return f"{grace} until {_shown(self.window.ends_at)}" if self.window.ends_at else grace
            case Validity.NOT_YET_VALID:
                return f"{name} licenses no consumer before {_shown(self.window.starts_at)}"
            case Validity.VALID:
                return f"{name} is valid"


def validity_of(license_: License, now: Moment) -> Validity | None:
    """None: it is denied for another reason than the time."""
    if license_.state is not None or not license_.is_verified:
        return None
    return Term(license_.id, "", license_.place, license_.window).at(now)


def described(license_: License) -> str:
    """Its id, and its kind or that it is not verified: `acme-2026 (production)`. A license of the policy has
    no kind: `acme (not signed, and require_signed is set)` if that denies it."""
    if not license_.is_verified:
        return f"{license_.id} (not verified)"
    if license_.state is Reason.BAD_SIGNATURE:
        return f"{license_.id} (not signed, and require_signed is set)"
    return f"{license_.id} ({license_.document.kind})" if license_.document else license_.id


def terms_of(licenses: Iterable[License]) -> Iterator[Term]:
    for one in licenses:
        yield Term(one.id, "", one.place, one.window)
        for entitlement in one.entitlements:
            if entitlement.window != Window():
                window = one.window.narrowed_by(entitlement.window)
                yield Term(one.id, entitlement.id, entitlement.place, window)


def ended(licenses: Iterable[License], now: Moment) -> list[Finding]:
    """Findings for all that has ended, or is in grace. An entitlement is listed only if that differs from its
    license."""
    said: dict[str, Validity] = {}
    findings = []
    for term in terms_of(licenses):
        validity = term.at(now)
        if not term.entitlement:
            said[term.license] = validity
        elif validity is said[term.license]:
            continue
        if validity is Validity.EXPIRED:
            findings.append(Finding(term.place, term.said(validity), "renew it, or remove it"))
        elif validity is Validity.GRACE:
            findings.append(Finding(term.place, term.said(validity), "renew it"))
    return findings


def _shown(moment: datetime | None) -> str:
    return show_utc(moment) if moment else "an unknown time"
