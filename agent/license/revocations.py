"""What the revocation lists in force revoke."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from agent.license.values import LicenseDocument, RevocationList

Key = tuple[str, str]
"""Issuer and kid: two issuers may have the same key, and share nothing."""


@dataclass(frozen=True, slots=True)
class SignedList:
    """A revocation list, with every pinned key that may sign it and did."""

    listed: RevocationList
    kids: frozenset[str]

    @property
    def signers(self) -> frozenset[Key]:
        """The keys whose word it is. A key cannot revoke itself."""
        return frozenset((self.listed.issuer, kid) for kid in self.kids - set(self.listed.keys))

    @property
    def revoked_keys(self) -> frozenset[Key]:
        return frozenset((self.listed.issuer, kid) for kid in self.listed.keys)


@dataclass(frozen=True, slots=True)
class Revoked:
    """Revoked keys and licenses."""

    keys: frozenset[Key] = frozenset()
    licenses: Mapping[tuple[str, str], frozenset[int] | None] = field(default_factory=dict)
    """By issuer and id: serials; None: all serials."""

    def covers(self, document: LicenseDocument) -> bool:
        """True if the license itself is revoked, whoever signed it."""
        key = document.issuer, document.id
        if key not in self.licenses:
            return False
        serials = self.licenses[key]
        return serials is None or document.serial in serials


def newest(lists: Iterable[SignedList]) -> dict[Key, SignedList]:
    """Of each key the list with the highest serial; of equal serials the first."""
    best: dict[Key, SignedList] = {}
    for one in lists:
        for signer in one.signers:
            known = best.get(signer)
            if known is None or one.listed.serial > known.listed.serial:
                best[signer] = one
    return best


def revoked_by(lists: Iterable[SignedList]) -> Revoked:
    """What the newest lists revoke. What a revoked key has revoked does not count, except that two keys which
    revoke each other are both revoked."""
    counted = list(dict.fromkeys(newest(lists).values()))
    keys = _revoked_keys(counted)
    licenses: dict[tuple[str, str], frozenset[int] | None] = {}
    for one in counted:
        if one.signers <= keys:
            continue
        for each in one.listed.licenses:
            key = one.listed.issuer, each.id
            before = licenses.get(key, frozenset())
            both = before is not None and each.serials is not None
            licenses[key] = (before or frozenset()) | (each.serials or frozenset()) if both else None
    return Revoked(keys, licenses)


def _revoked_keys(lists: list[SignedList]) -> frozenset[Key]:
    """Decide key by key: one that no remaining list revokes is good, and what it revokes is revoked. The rest
    revoke each other in a circle: all of them are revoked."""
    named = frozenset(key for one in lists for key in one.revoked_keys)
    good = frozenset(key for one in lists for key in one.signers) - named
    revoked: frozenset[Key] = frozenset()
    while True:
        remaining = [one for one in lists if not one.signers <= revoked]
        now_revoked = frozenset(key for one in remaining if one.signers & good for key in one.revoked_keys)
        remaining = [one for one in remaining if not one.signers <= now_revoked]
        named_by_remaining = frozenset(key for one in remaining for key in one.revoked_keys)
        now_good = (named | good) - named_by_remaining
        if (now_good, now_revoked) == (good, revoked):
            return named - good
        good, revoked = now_good, now_revoked
