"""The highest serials seen: an older document of a license never comes back into force."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any

from agent.license.values import LicenseDocument


@dataclass(frozen=True, slots=True)
class Seen:
    """The highest serial of one license under one key."""

    serial: int
    payload: str
    """Hex SHA-256 of the payload."""


@dataclass(slots=True)
class Serials:
    """What documents that were in force have established. It counts only while its key is pinned and not
    revoked: callers pass those keys as `kids`."""

    highest: dict[tuple[str, str], dict[str, Seen]] = field(default_factory=dict)
    """By issuer and id, then by kid."""
    replaced: dict[tuple[str, str], dict[tuple[str, str], float]] = field(default_factory=dict)
    """By issuer and id, then by kid and the id of a license that supersedes it: when that one was issued, in
    seconds since the epoch."""
    owners: dict[str, str] = field(default_factory=dict)
    """By id: the issuer of the last document that held. It is the first issuer for as long as a key of that
    one counts: no document of another holds meanwhile."""

    def note(self, document: LicenseDocument, payload: str, kid: str) -> bool:
        """Establish a document that is in force. True if that was new."""
        seen = self.highest.setdefault((document.issuer, document.id), {})
        known = seen.get(kid)
        changed = self.owners.get(document.id) != document.issuer
        self.owners[document.id] = document.issuer
        if known is None or document.serial > known.serial:
            seen[kid] = Seen(document.serial, payload)
            changed = True
        issued_s = document.issued_at.timestamp()
        for name in document.supersedes:
            replacing = self.replaced.setdefault((document.issuer, name), {})
            if issued_s > replacing.get((kid, document.id), -1.0):
                replacing[kid, document.id] = issued_s
                changed = True
        return changed

    def add(self, earlier: Serials) -> None:
        """Add what was established before: the highest counts, and the first issuer of an id."""
        for key, by_kid in earlier.highest.items():
            seen = self.highest.setdefault(key, {})
            for kid, one in by_kid.items():
                if kid not in seen or one.serial >= seen[kid].serial:
                    seen[kid] = one
        for key, replacing in earlier.replaced.items():
            known = self.replaced.setdefault(key, {})
            for by, issued_s in replacing.items():
                known[by] = max(issued_s, known.get(by, issued_s))
        self.owners |= earlier.owners

    def has_held(self, document: LicenseDocument, kids: Collection[str]) -> bool:
        """True if this document, or a newer one of its license, has been in force."""
        seen = self.highest.get((document.issuer, document.id), {})
        return any(kid in kids and document.serial <= one.serial for kid, one in seen.items())

    def why_superseded(self, document: LicenseDocument, payload: str, kids: Collection[str]) -> str:
        """One clause; "" if the document is not superseded."""
        key = document.issuer, document.id
        seen = [one for kid, one in self.highest.get(key, {}).items() if kid in kids]
        best = max(seen, key=lambda one: one.serial, default=None)
        if best and document.serial < best.serial:
            return f"serial {best.serial} has been in force"
        if best and document.serial == best.serial and all(one.payload != payload for one in seen):
            return f"another document with serial {best.serial} has been in force: raise the serial"
        for (kid, by), issued_s in self.replaced.get(key, {}).items():
            # of two that supersede each other, the one that was issued later holds
            is_answered = by in document.supersedes and document.issued_at.timestamp() > issued_s
            if kid in kids and not is_answered:
                return f"license '{by}' supersedes it"
        return ""

    def owner(self, name: str) -> str:
        """The issuer that has this id; "" if none has."""
        return self.owners.get(name, "")

    def to_json(self) -> dict[str, Any]:
        """As `from_json` reads it."""
        return {
            "highest": [
                [issuer, name, kid, seen.serial, seen.payload]
                for (issuer, name), by_kid in self.highest.items()
                for kid, seen in by_kid.items()
            ],
            "replaced": [
                [issuer, name, kid, by, issued_s]
                for (issuer, name), replacing in self.replaced.items()
                for (kid, by), issued_s in replacing.items()
            ],
            "owners": dict(self.owners),
        }

    @classmethod
    def from_json(cls, stored: Any) -> Serials:
        """Raises ValueError, TypeError or KeyError if `stored` is damaged."""
        found = cls()
        for issuer, name, kid, serial, payload in stored["highest"]:
            found.highest.setdefault((str(issuer), str(name)), {})[str(kid)] = Seen(int(serial), str(payload))
        for issuer, name, kid, by, issued_s in stored["replaced"]:
            replacing = found.replaced.setdefault((str(issuer), str(name)), {})
            replacing[str(kid), str(by)] = float(issued_s)
        found.owners = {str(name): str(issuer) for name, issuer in stored["owners"].items()}
        return found
