"""What is told of licenses: the daemon fills these values; metrics, events, the API and commands read them.

Only what a pinned key has signed, or the policy itself says, is a name. The rest is text of nobody."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypedDict

from agent.license.clock import Moment
from agent.license.report import State
from agent.license.times import Change, Times
from agent.model import show_time
from agent.policy.validity import Term

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_NOT_LOOKED = Moment(_EPOCH, _EPOCH)
_ALWAYS = Times()
HOLDS = frozenset({State.VALID, State.GRACE})
BY_TIME = HOLDS | {State.NOT_YET_VALID, State.EXPIRED}


class ChangeFields(TypedDict):
    state: str
    at: str


class LicenseFields(TypedDict):
    """A license in JSON. Null or empty: not known, or none."""

    id: str
    serial: int | None
    issuer: str
    licensee: str
    product: str
    kind: str
    file: str
    """Name of the document's file; empty: it is written in the policy."""
    rule: str
    """Where it is written."""
    signed: bool
    verified: bool
    key: str
    state: str
    why: str
    validity: str | None
    """By its times alone."""
    in_force: bool
    is_copy: bool
    waits_for_file: bool
    left_out: str
    issued_at: str | None
    starts_at: str | None
    expires_at: str | None
    terminates_at: str | None
    next: ChangeFields | None
    hosts: int | None
    node_locked: bool
    supersedes: list[str]
    notice_days: list[int]


@dataclass(frozen=True, slots=True)
class License:
    """One license: of the policy, of a file, or the copy that is in force instead of a file."""

    state: State
    """At `times`, if `standing` goes by the time."""
    id: str = ""
    """Empty: the file is malformed."""
    serial: int | None = None
    """None: not signed, or malformed."""
    issuer: str = ""
    licensee: str = ""
    product: str = ""
    kind: str = ""
    file: str = ""
    rule: str = ""
    signed: bool = False
    verified: bool = False
    key: str = ""
    why: str = ""
    validity: State | None = None
    in_force: bool = False
    """The kernel judges by it, and it holds now."""
    is_copy: bool = False
    waits_for_file: bool = False
    """A copy goes on until the document of its file begins."""
    left_out: str = ""
    issued_at: datetime | None = None
    times: Times = _ALWAYS
    next: Change | None = None
    hosts: int | None = None
    node_locked: bool = False
    supersedes: tuple[str, ...] = ()
    notice_days: tuple[int, ...] = ()
    """Of a document. A license of the policy has no notices."""
    terms: tuple[Term, ...] = ()
    """Of the license and of its entitlements, if it is in the kernel's tables."""
    extensions: Mapping[str, Any] = field(default_factory=dict)
    """The vendor's own data; empty unless verified."""

    @property
    def is_named(self) -> bool:
        """True if the license may be called by its id: in a label, and where files of others are told."""
        return self.verified or not self.signed

    def summary(self) -> dict[str, str | None]:
        """As /v1/policy has it."""
        return {
            "id": self.id,
            "kind": self.kind,
            "rule": self.rule,
            "state": self.state.value,
            "validity": self.validity.value if self.validity else None,
            "expires_at": _time(self.times.expires_at),
            "terminates_at": _time(self.times.terminates_at),
        }

    def fields(self) -> LicenseFields:
        """As /v1/licenses has it, without `extensions`."""
        times = self.times
        return {
            "id": self.id,
            "serial": self.serial,
            "issuer": self.issuer,
            "licensee": self.licensee,
            "product": self.product,
            "kind": self.kind,
            "file": self.file,
            "rule": self.rule,
            "signed": self.signed,
            "verified": self.verified,
            "key": self.key,
            "state": self.state.value,
            "why": self.why,
            "validity": self.validity.value if self.validity else None,
            "in_force": self.in_force,
            "is_copy": self.is_copy,
            "waits_for_file": self.waits_for_file,
            "left_out": self.left_out,
            "issued_at": _time(self.issued_at),
            "starts_at": _time(times.starts_at),
            "expires_at": _time(times.expires_at),
            "terminates_at": _time(times.terminates_at),
            "next": {"state": self.next.state.value, "at": show_time(self.next.at)} if self.next else None,
            "hosts": self.hosts,
            "node_locked": self.node_locked,
            "supersedes": list(self.supersedes),
            "notice_days": list(self.notice_days),
        }


class RevocationFields(TypedDict):
    """A revocation list in JSON."""

    file: str
    issuer: str
    serial: int
    verified: bool
    key: str
    state: str
    why: str
    in_force: bool
    is_overdue: bool
    issued_at: str
    next_update: str
    licenses: int
    """How many it revokes."""
    keys: int


@dataclass(frozen=True, slots=True)
class Revocations:
    """One revocation list: of a file, or of an earlier file and still in force."""

    file: str
    issuer: str
    serial: int
    state: State
    issued_at: datetime
    next_update: datetime
    verified: bool = False
    key: str = ""
    why: str = ""
    in_force: bool = False
    is_overdue: bool = False
    """It is past its next update."""
    is_kept: bool = False
    """Its file is gone, or holds something else."""
    licenses: int = 0
    keys: int = 0

    @property
    def is_named(self) -> bool:
        """True if the list may be called by its issuer."""
        return self.verified

    def fields(self) -> RevocationFields:
        """As /v1/licenses has it."""
        return {
            "file": self.file,
            "issuer": self.issuer,
            "serial": self.serial,
            "verified": self.verified,
            "key": self.key,
            "state": self.state.value,
            "why": self.why,
            "in_force": self.in_force,
            "is_overdue": self.is_overdue,
            "issued_at": show_time(self.issued_at),
            "next_update": show_time(self.next_update),
            "licenses": self.licenses,
            "keys": self.keys,
        }


class LicensesFields(TypedDict):
    """As /v1/status has it. /v1/licenses has `extensions` of each license, too."""

    license_time: str
    wall_time: str
    require_signed: bool
    node_ids: Mapping[str, str]
    licenses: list[LicenseFields]
    revocations: list[RevocationFields]


@dataclass(frozen=True, slots=True)
class Licenses:
    """All of them, at one moment."""

    moment: Moment = _NOT_LOOKED
    require_signed: bool = False
    listed: tuple[License, ...] = ()
    """Those of the policy, then those of files in name order; behind a file, the copy that is in force."""
    revocations: tuple[Revocations, ...] = ()
    node_ids: Mapping[str, str] = field(default_factory=dict)
    """Of this host, by kind: mi, dm, hk."""
    files: Mapping[State, int] = field(default_factory=dict)
    """How many files of paths.licenses have each state, if any has."""

    def by_id(self) -> dict[str, License]:
        """Of each id that may be told, the license that counts: the one in force, else the newest that has
        begun."""
        best: dict[str, License] = {}
        for one in self.listed:
            if one.is_named and (one.id not in best or _rank(one) > _rank(best[one.id])):
                best[one.id] = one
        return best

    def renewals(self) -> dict[str, datetime]:
        """By id: when the first document that waits for its start renews the license. A document renews its
        own id, and those of its issuer that it supersedes."""
        found: dict[str, datetime] = {}
        issuers = {name: one.issuer for name, one in self.by_id().items() if one.verified}
        for one in self.listed:
            begins = one.times.starts_at
            if begins and one.verified and one.state is State.NOT_YET_VALID and not one.left_out:
                for name in (one.id, *one.supersedes):
                    if issuers.get(name) == one.issuer:
                        found[name] = min(begins, found.get(name, begins))
        return found

    def next_updates(self) -> dict[str, datetime]:
        """By issuer: when the first of its revocation lists in force ends being up to date. Each key has its
        own."""
        found: dict[str, datetime] = {}
        for one in self.revocations:
            if one.in_force:
                found[one.issuer] = min(one.next_update, found.get(one.issuer, one.next_update))
        return found

    def fields(self) -> LicensesFields:
        return {
            "license_time": show_time(self.moment.license),
            "wall_time": show_time(self.moment.wall),
            "require_signed": self.require_signed,
            "node_ids": dict(self.node_ids),
            "licenses": [one.fields() for one in self.listed],
            "revocations": [one.fields() for one in self.revocations],
        }

    def with_extensions(self) -> dict[str, Any]:
        """The answer of /v1/licenses."""
        licenses = [{**one.fields(), "extensions": dict(one.extensions)} for one in self.listed]
        return {**self.fields(), "licenses": licenses}


def _rank(one: License) -> tuple[bool, bool, bool, int, bool]:
    """One that waits for its start hides nothing: until then the one before it is what became of the
    license."""
    has_begun = one.state is not State.NOT_YET_VALID
    return one.in_force, one.state in HOLDS, has_begun, one.serial or 0, not one.is_copy


def _time(moment: datetime | None) -> str | None:
    return show_time(moment) if moment else None
