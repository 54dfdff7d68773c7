"""License documents as values: what the signed bytes say, after every check that needs nothing else.

Times are UTC datetimes. `payload` makes these values from JSON, and `standing` judges them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, datetime
from enum import StrEnum
from typing import Any

from agent.model import PortClass

LICENSE_TYPE = "application/vnd.licet.license.v1+json"
REVOCATIONS_TYPE = "application/vnd.licet.revocations.v1+json"
MOST_DOCUMENTS = 256
MOST_DOCUMENT_BYTES = 64 << 10
MOST_SIGNATURES = 8
MOST_SERIAL = (1 << 53) - 1
MOST_CHARACTERS = 256
"""Of issuer and licensee."""
MOST_ENTITLEMENTS = 256
MOST_NAMES = 256
"""Of principals and services in an entitlement, of products of a key, and of licenses that one supersedes."""
MOST_NODE_IDS = 1024
MOST_NOTICES = 32
MOST_NOTICE_DAYS = 3650
MOST_REVOKED = 1024
"""Of licenses and of keys in a revocation list, and of serials of one license."""
NOTICE_DAYS = (60, 30, 14, 7, 1)


class Kind(StrEnum):
    PRODUCTION = "production"
    EVALUATION = "evaluation"
    DEVELOPMENT = "development"


class ClockRule(StrEnum):
    LENIENT = "lenient"
    STRICT = "strict"
    """Denied while the wall clock is more than 24 hours behind license time."""


class Every(StrEnum):
    MONTH = "month"
    QUARTER = "quarter"
    YEAR = "year"


class Permission(StrEnum):
    LICENSE = "license"
    REVOKE = "revoke"


@dataclass(frozen=True, slots=True)
class NodeLock:
    """The hosts that a license is for: `at_least` of these node ids must be the host's."""

    any_of: tuple[str, ...]
    at_least: int = 1


@dataclass(frozen=True, slots=True)
class Period:
    """The billing period. `start`: a day on which one begins; None: the first of a month."""

    every: Every = Every.MONTH
    start: date | None = None


@dataclass(frozen=True, slots=True)
class DocumentEntitlement:
    id: str
    principals: tuple[str, ...]
    services: tuple[str, ...] | None = None
    """None: every service of the license's product."""
    classes: tuple[PortClass, ...] | None = None
    """None: every class."""
    starts_at: datetime | None = None
    expires_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class LicenseDocument:
    """The payload of a license document."""

    id: str
    serial: int
    issuer: str
    licensee: str
    product: str
    kind: Kind
    issued_at: datetime
    starts_at: datetime
    entitlements: tuple[DocumentEntitlement, ...]
    expires_at: datetime | None = None
    """None: perpetual."""
    terminates_at: datetime | None = None
    """Never before expires_at. None: perpetual."""
    supersedes: tuple[str, ...] = ()
    """Ids of other licenses of this issuer."""
    notice_days: tuple[int, ...] = NOTICE_DAYS
    node_lock: NodeLock | None = None
    """None: for any host."""
    hosts: int | None = None
    """How many hosts it was sold for. Reported, not enforced."""
    clock: ClockRule = ClockRule.LENIENT
    period: Period = Period()
    extensions: Mapping[str, Any] = field(default_factory=dict)
    """The vendor's own data: shown, otherwise ignored."""


@dataclass(frozen=True, slots=True)
class RevokedLicense:
    id: str
    serials: frozenset[int] | None
    """None: all serials."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """The payload of a revocation list."""

    issuer: str
    serial: int
    issued_at: datetime
    next_update: datetime
    licenses: tuple[RevokedLicense, ...] = ()
    keys: tuple[str, ...] = ()
    """Key ids."""


@dataclass(frozen=True, slots=True)
class PinnedKey:
    """A public key that the operator trusts, and what it may say."""

    kid: str
    """Hex SHA-256 of `public_key`."""
    issuer: str
    products: tuple[str, ...]
    public_key: bytes
    """32 bytes, Ed25519."""
    may: frozenset[Permission]
    valid_from: datetime | None = None
    valid_until: datetime | None = None
    """Both are compared with a document's issued_at. None: no limit."""

    def may_sign(self, document: LicenseDocument | RevocationList) -> bool:
        """True if the key may speak for this issuer, product, kind of document and date."""
        if isinstance(document, LicenseDocument):
            covered = Permission.LICENSE in self.may and document.product in self.products
        else:
            covered = Permission.REVOKE in self.may
        return (
            covered
            and document.issuer == self.issuer
            and (self.valid_from is None or document.issued_at >= self.valid_from)
            and (self.valid_until is None or document.issued_at < self.valid_until)
        )


@dataclass(frozen=True, slots=True)
class Signature:
    keyid: str
    """Which key to try first; never trusted."""
    value: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """A DSSE envelope, decoded."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def message(self) -> bytes:
        """The bytes that are signed: DSSE's PAE (pre-authentication encoding)."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class Malformed(Exception):
    """A document, or a template of one, that is not valid.

    `location`: the keys and list positions that lead to the mistake."""

    def __init__(self, reason: str, remedy: str = "", location: tuple[str | int, ...] = ()) -> None:
        super().__init__(reason)
        self.reason = reason
        self.remedy = remedy
        self.location = location

    def __str__(self) -> str:
        return self.reason + (f" ({self.remedy})" if self.remedy else "")
