"""What is known about each license document and revocation list, for status, metrics, events and commands."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from agent.license.values import LicenseDocument, RevocationList


class State(StrEnum):
    """The state of a license. From `malformed` on, the first that applies denies."""

    VALID = "valid"
    GRACE = "grace"
    MALFORMED = "malformed"
    UNKNOWN_KEY = "unknown_key"
    BAD_SIGNATURE = "bad_signature"
    REVOKED = "revoked"
    SUPERSEDED = "superseded"
    NODE_MISMATCH = "node_mismatch"
    CLOCK_ROLLBACK = "clock_rollback"
    NOT_YET_VALID = "not_yet_valid"
    EXPIRED = "expired"
    UNVERIFIED = "unverified"
    """Nothing could verify it: neither in force nor refused."""


@dataclass(frozen=True, slots=True)
class Standing:
    """The state of a document, with one clause that says why."""

    state: State
    why: str = ""


@dataclass(frozen=True, slots=True)
class DocumentReport:
    """One document: a file of paths.licenses, or the copy that is in force instead of it."""

    file: str
    """Name of the file, without its folder."""
    document: LicenseDocument | RevocationList | None
    """None: malformed, or unreadable."""
    standing: Standing
    verified: bool
    """True if a pinned key that may sign it has signed it. Only then are its names used as labels."""
    is_copy: bool = False
    """True for the last verified document of this file, while the file itself does not hold."""
    kid: str = ""
    """The key that verified it."""
    has_held: bool = False
    """True if it, or a newer document of its license, has held on this host."""


@dataclass(frozen=True, slots=True)
class RevocationsReport:
    """The newest revocation list of one issuer and key."""

    listed: RevocationList
    kid: str
    file: str
    """Name of the file it came from."""
