"""Judges license documents: of all the ways to be invalid, the first that applies."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from agent.license.clock import Moment
from agent.license.node import matches
from agent.license.report import Standing, State
from agent.license.revocations import Revoked
from agent.license.serials import Serials
from agent.license.values import (
    ClockRule,
    LicenseDocument,
    Permission,
    PinnedKey,
    RevocationList,
)
from agent.model import show_utc


@dataclass(frozen=True, slots=True)
class Opened:
    """A document that could be read, and the pinned keys under which a signature of it verifies."""

    file: str
    document: LicenseDocument | RevocationList
    digest: str
    """Hex SHA-256 of the payload."""
    hints: tuple[str, ...] = ()
    """The envelope's key ids."""
    verified: frozenset[str] | None = frozenset()
    """Kids, whatever these keys may sign. None: nothing could verify it."""


@dataclass(frozen=True, slots=True)
class Judge:
    """Holds documents against the pinned keys, what is revoked or superseded, this host and the time."""

    pinned: Sequence[PinnedKey]
    node_ids: frozenset[str]
    moment: Moment
    serials: Serials
    revoked: Revoked = field(default_factory=Revoked)

    def standing(self, opened: Opened) -> tuple[Standing, str]:
        """(the standing of a license document, the kid that verified it or "")."""
        document = opened.document
        assert isinstance(document, LicenseDocument)
        found, signers = self._signed(opened)
        if found:
            return found, ""
        if (owner := self._owner(document.id)) not in ("", document.issuer):
            return Standing(State.UNKNOWN_KEY, f"issuer '{owner}' has this id"), ""
        good = self.good_signers(opened)
        kid = (good or signers)[0]
        return next(self._of_license(opened, document, good, kid)), kid

    def has_held(self, document: LicenseDocument) -> bool:
        """True if the document, or a newer one of its license, has held on this host. What only revoked keys
        have said does not count."""
        return self.serials.has_held(document, self._kids(document.issuer))

    def signers(self, opened: Opened) -> list[str]:
        """Kids of the pinned keys that may sign this document and did; the envelope's hints first."""
        verified = opened.verified or frozenset()
        able = {key.kid: None for key in self.pinned if key.may_sign(opened.document) and key.kid in verified}
        return sorted(able, key=lambda kid: kid not in opened.hints)

    def good_signers(self, opened: Opened) -> list[str]:
        """Those of `signers` that are not revoked."""
        issuer = opened.document.issuer
        return [kid for kid in self.signers(opened) if (issuer, kid) not in self.revoked.keys]

    def list_standing(self, opened: Opened) -> Standing:
        """The standing of a revocation list, but for lists that are newer."""
        listed = opened.document
        assert isinstance(listed, RevocationList)
        found, signers = self._signed(opened)
        if found:
            return found
        others = [kid for kid in signers if kid not in listed.keys]
        if not others:
            return Standing(State.UNKNOWN_KEY, "no key revokes itself: another key of the issuer must sign")
        if all((listed.issuer, kid) in self.revoked.keys for kid in others):
            return Standing(State.REVOKED, f"key {short(others[0])} is revoked")
        return Standing(State.VALID)

    def _signed(self, opened: Opened) -> tuple[Standing | None, list[str]]:
        if opened.verified is None:
            return Standing(State.UNVERIFIED, "no process could verify its signature"), []
        signers = self.signers(opened)
        if signers:
            return None, signers
        hints = frozenset(opened.hints) - {""}
        able = {key.kid for key in self.pinned if key.may_sign(opened.document)}
        if able & hints if hints else able:
            why = "no signature verifies: the document was changed, or is signed by another key"
            return Standing(State.BAD_SIGNATURE, why), []
        return Standing(State.UNKNOWN_KEY, self._why_unknown(opened, hints)), []

    def _why_unknown(self, opened: Opened, hints: Collection[str]) -> str:
        document = opened.document
        known = {key.kid for key in self.pinned}
        what = f"issuer '{document.issuer}'"
        if isinstance(document, LicenseDocument):
            what += f", product '{document.product}', issued {show_utc(document.issued_at)}"
        else:
            what += f", a revocation list issued {show_utc(document.issued_at)}"
        if limited := ((opened.verified or frozenset()) | frozenset(hints)) & known:
            return f"key {short(min(limited))} is pinned, but may not sign for {what}"
        return f"key {short(min(hints))} is not pinned" if hints else f"no pinned key may sign for {what}"

    def _owner(self, name: str) -> str:
        """The issuer that has this id, if a key of it is pinned and not revoked. What only revoked keys have
        claimed is nobody's."""
        owner = self.serials.owner(name)
        claimed = self.serials.highest.get((owner, name), {})
        is_claimed = any((owner, kid) not in self.revoked.keys for kid in claimed)
        return owner if is_claimed and self._kids(owner) else ""

    def _kids(self, issuer: str) -> frozenset[str]:
        """Keys of an issuer whose documents count."""
        return frozenset(
            key.kid
            for key in self.pinned
            if key.issuer == issuer
            and Permission.LICENSE in key.may
            and (issuer, key.kid) not in self.revoked.keys
        )

    def _of_license(
        self, opened: Opened, document: LicenseDocument, good: Sequence[str], kid: str
    ) -> Iterator[Standing]:
        if not good:
            yield Standing(State.REVOKED, f"key {short(kid)} is revoked")
        if self.revoked.covers(document):
            yield Standing(State.REVOKED, f"serial {document.serial} is on a revocation list")
        if why := self.serials.why_superseded(document, opened.digest, self._kids(document.issuer)):
            yield Standing(State.SUPERSEDED, why)
        if not matches(document.node_lock, self.node_ids):
            yield Standing(State.NODE_MISMATCH, "it is locked to other hosts")
        if document.clock is ClockRule.STRICT and self.moment.is_rolled_back:
            # no number: a reason that changes with each look would have the tables compiled with each look
            yield Standing(State.CLOCK_ROLLBACK, "the wall clock is more than 24 hours behind license time")
        yield time_standing(document, self.moment)


def time_standing(document: LicenseDocument, moment: Moment) -> Standing:
    """By the document's times alone."""
    if moment.later < document.starts_at:
        return Standing(State.NOT_YET_VALID)
    if document.terminates_at and moment.license >= document.terminates_at:
        return Standing(State.EXPIRED)
    if document.expires_at and moment.license >= document.expires_at:
        return Standing(State.GRACE)
    return Standing(State.VALID)


HOLDS = frozenset({State.VALID, State.GRACE})
TAKES_OVER = HOLDS | {State.CLOCK_ROLLBACK, State.NOT_YET_VALID, State.EXPIRED}
"""States in which a file's document replaces the copy that was in force for the file, unless the copy holds
and the document does not."""


def establish(judge: Judge, documents: Iterable[Opened]) -> bool:
    """Note the serials of all documents that hold, the newest first. True if any was new."""
    licenses = [one for one in documents if isinstance(one.document, LicenseDocument)]
    changed = False
    for one in sorted(licenses, key=_newest_first):
        if judge.standing(one)[0].state in HOLDS:
            assert isinstance(one.document, LicenseDocument)
            for kid in judge.good_signers(one):
                changed |= judge.serials.note(one.document, one.digest, kid)
    return changed


def _newest_first(opened: Opened) -> tuple[float, int, str]:
    document = opened.document
    return -document.issued_at.timestamp(), -document.serial, opened.file


def short(kid: str) -> str:
    return kid[:12]
