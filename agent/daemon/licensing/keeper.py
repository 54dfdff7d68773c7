"""License documents in force: files → signatures → standing, each file for itself."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from agent.daemon.licensing.folder import BRING_BACK, Folder, Listing
from agent.daemon.licensing.key_ring import KeyRing
from agent.daemon.licensing.node import Node
from agent.daemon.licensing.opening import Content, open_all
from agent.daemon.licensing.store import Copy, LicenseStore
from agent.daemon.licensing.verifier import Verifier
from agent.license.clock import Moment
from agent.license.report import DocumentReport, RevocationsReport, Standing, State
from agent.license.revocations import Key, Revoked, SignedList, newest, revoked_by
from agent.license.standing import HOLDS, TAKES_OVER, Judge, Opened, establish
from agent.license.values import (
    MOST_DOCUMENT_BYTES,
    MOST_DOCUMENTS,
    LicenseDocument,
    Malformed,
    RevocationList,
)
from agent.policy.values import Finding, Place

BY_TIME = frozenset({State.VALID, State.GRACE, State.NOT_YET_VALID})
"""States that the kernel tells apart by itself, from the deadlines in its tables. It does so with `expired`,
too, which makes room for others."""


class Clock(Protocol):
    """License time and the wall clock."""

    def moment(self) -> Moment:
        """What time it is now."""


@dataclass(frozen=True, slots=True)
class _Folder:
    """What the last look at the files found."""

    listing: Listing = field(default_factory=Listing)
    malformed: dict[str, Malformed] = field(default_factory=dict)
    files: dict[str, Opened] = field(default_factory=dict)
    copies: dict[str, Opened] = field(default_factory=dict)
    lists: tuple[Opened, ...] = ()
    """Revocation lists of earlier looks."""


class LicenseKeeper:
    """`refresh` reads everything again, `judge_again` only looks at the time. Not thread-safe; what the
    properties return is replaced as a whole."""

    def __init__(
        self, path: Path, keys: KeyRing, store: LicenseStore, node: Node, verifier: Verifier, clock: Clock
    ) -> None:
        self._path = path
        self._folder = Folder(path, (".json",), MOST_DOCUMENTS, MOST_DOCUMENT_BYTES)
        self._keys = keys
        self._store = store
        self._node = node
        self._verifier = verifier
        self._clock = clock
        self._seen = _Folder()
        self._newest: dict[Key, SignedList] = {}
        """Revocation lists by issuer and kid."""
        self.reports: tuple[DocumentReport, ...] = ()
        """Each file, in name order, and behind it the copy that is in force instead."""
        self.revocations: tuple[RevocationsReport, ...] = ()

    @property
    def findings(self) -> tuple[Finding, ...]:
        """What is wrong with the folders and the keys."""
        listing, found = self._seen.listing, list(self._keys.findings)
        if listing.problem:
            why = f"{listing.problem}; its licenses stay in force"
            found.append(Finding(Place(str(self._path)), why, BRING_BACK))
        if listing.left_out:
            more = f"{len(listing.left_out)} documents are too many, {MOST_DOCUMENTS} are read"
            found.append(Finding(Place(str(self._path)), more, "remove documents that have ended"))
        return tuple(found)

    @property
    def problem(self) -> str:
        """Why something that the keeper needs does not work; "" if all does."""
        gone = self._seen.listing.problem
        folders = f"{self._path}: {gone}" if gone else self._keys.problem
        return self._verifier.problem or folders or self._node.problem or self._store.problem

    @property
    def no_verdict(self) -> str:
        """Why some signatures could not be verified, or some records not read; "" if all were."""
        return self._verifier.problem or self._store.unread

    @property
    def node_ids(self) -> dict[str, str]:
        """Node ids by kind: mi, dm, hk."""
        return dict(self._node.ids)

    def refresh(self) -> None:
        """Read keys, node ids and documents again, have new signatures verified, and judge."""
        self._store.load()
        self._keys.read()
        self._node.read()
        if self._store.copies and not self._folder.had_files:
            self._folder.expect_files(was_mount=self._store.was_mount("licenses"))
        listing = self._folder.read(self._store.copies)
        readable = {name: read.content for name, read in listing.files.items() if not read.problem}
        contents = [self._content(name, content) for name, content in readable.items()]
        stored = self._store.copies.items()
        copies = [_kept(one) for name, one in stored if listing.problem or name in listing.files]
        lists = [_kept(one) for one in self._store.lists.values()]
        opened = open_all([*contents, *copies, *lists], self._keys.keys, self._verifier)
        of_files = dict(zip((one.file for one in contents), opened, strict=False))
        rest = opened[len(contents) :]
        self._seen = _Folder(
            listing,
            {name: one for name, one in of_files.items() if isinstance(one, Malformed)},
            {name: one for name, one in of_files.items() if isinstance(one, Opened)},
            {one.file: one for one in rest[: len(copies)] if isinstance(one, Opened)},
            tuple(one for one in rest[len(copies) :] if isinstance(one, Opened)),
        )
        if any(_is_locked_to_key(one) for one in (*self._seen.files.values(), *self._seen.copies.values())):
            self._node.prove()
        self.judge_again()
        self._keep(readable)

    def judge_again(self) -> bool:
        """Judge what was read at the time that it is now. True if the kernel's tables change with it."""
        before = in_tables(self.reports)
        node_ids = frozenset(self._node.ids.values())
        judge = Judge(self._keys.keys, node_ids, self._clock.moment(), self._store.serials)
        signed = list(self._signed(judge))
        judge = replace(judge, revoked=revoked_by(one for one, _ in signed))
        if establish(judge, (*self._seen.files.values(), *self._seen.copies.values())):
            self._store.put_serials()
        self._newest = newest(one for one, _ in signed)
        self.reports = tuple(self._judged(judge))
        files = {one.listed: opened.file for one, opened in signed}
        self.revocations = tuple(_revocations(self._newest, judge.revoked, files))
        return in_tables(self.reports) != before

    @property
    def moment(self) -> Moment:
        """What time it is now."""
        return self._clock.moment()

    def retry(self) -> None:
        """Write what could not be written before."""
        self._store.retry()

    def _content(self, name: str, content: bytes) -> Content:
        copy = self._store.copies.get(name)
        known = [copy] if copy else []
        known += [one for one in self._store.lists.values() if one.file == name]
        before = next((one.kids for one in known if one.content == content), None)
        return Content(name, content, before)

    def _signed(self, judge: Judge) -> Iterable[tuple[SignedList, Opened]]:
        """Revocation lists that a pinned key signed: those of earlier looks first."""
        for one in (*self._seen.lists, *self._seen.files.values()):
            if isinstance(one.document, RevocationList):
                kids = frozenset(judge.signers(one))
                if kids - set(one.document.keys):
                    yield SignedList(one.document, kids), one

    def _judged(self, judge: Judge) -> Iterable[DocumentReport]:
        listing = self._seen.listing
        for name in dict.fromkeys((*listing.files, *self._seen.copies)):
            file = self._of_file(name, judge)
            if file:
                yield file
            opened = self._seen.copies.get(name)
            copy = _license_report(name, opened, judge, is_copy=True) if opened else None
            if copy and not (file and _replaces(file, copy)):
                yield copy

    def _of_file(self, name: str, judge: Judge) -> DocumentReport | None:
        read = self._seen.listing.files.get(name)
        if read is None:
            return None
        opened = self._seen.files.get(name)
        if opened is None:
            why = read.problem or str(self._seen.malformed[name])
            return DocumentReport(name, None, Standing(State.MALFORMED, why), verified=False)
        if isinstance(opened.document, LicenseDocument):
            return _license_report(name, opened, judge)
        standing = judge.list_standing(opened)
        kids = judge.signers(opened)
        if standing.state is State.VALID and not self._newest_of(opened.document, kids):
            standing = Standing(State.SUPERSEDED, "a newer list of this key has been in force")
        return DocumentReport(name, opened.document, standing, bool(kids), kid=kids[0] if kids else "")

    def _keep(self, contents: dict[str, bytes]) -> None:
        """Store copies of what is in force now; drop those of files that are gone."""
        with_copy = {report.file for report in self.reports if report.is_copy}
        for report in self.reports:
            opened = self._seen.files.get(report.file)
            if opened is None or report.file in with_copy or report.standing.state not in TAKES_OVER:
                continue
            copy = Copy(report.file, contents[report.file], opened.verified or frozenset())
            if isinstance(opened.document, LicenseDocument):
                self._store.put_copy(copy)
                continue
            self._store.drop_copy(report.file)
            for kid in self._newest_of(opened.document, opened.verified or ()):
                self._store.put_list(opened.document.issuer, kid, copy)
        if not self._seen.listing.problem:
            for name in set(self._store.copies) - set(self._seen.listing.files):
                self._store.drop_copy(name)
        self._store.put_mount("licenses", is_mount=self._folder.is_mount)

    def _newest_of(self, listed: RevocationList, signers: Iterable[str]) -> list[str]:
        """Those of its signers whose newest list this is. Another key may have signed the same list."""
        newest_lists = {kid: self._newest.get((listed.issuer, kid)) for kid in signers}
        return [kid for kid, one in newest_lists.items() if one and one.listed == listed]


def _is_locked_to_key(opened: Opened) -> bool:
    """True if the host's own key decides whether the document is for this host."""
    lock = opened.document.node_lock if isinstance(opened.document, LicenseDocument) else None
    return lock is not None and any(one.startswith("hk:") for one in lock.any_of)


def _kept(copy: Copy) -> Content:
    return Content(copy.file, copy.content, copy.kids)


def _replaces(file: DocumentReport, copy: DocumentReport) -> bool:
    """True if the file's document replaces the copy, or is the same in the same state."""
    now, before = file.standing.state, copy.standing.state
    if now is State.NOT_YET_VALID and before is State.EXPIRED and _is_same_license(file, copy):
        return False  # in the gap between both, the license has ended
    if now in HOLDS or (now in TAKES_OVER and before not in HOLDS):
        return True
    return now is before and file.document == copy.document


def _is_same_license(a: DocumentReport, b: DocumentReport) -> bool:
    one, other = a.document, b.document
    return isinstance(one, LicenseDocument) and isinstance(other, LicenseDocument) and one.id == other.id


def _license_report(name: str, opened: Opened, judge: Judge, *, is_copy: bool = False) -> DocumentReport:
    standing, kid = judge.standing(opened)
    document = opened.document
    has_held = bool(kid) and isinstance(document, LicenseDocument) and judge.has_held(document)
    return DocumentReport(name, document, standing, bool(kid), is_copy, kid, has_held)


def _revocations(
    lists: Mapping[Key, SignedList], revoked: Revoked, files: Mapping[RevocationList, str]
) -> Iterable[RevocationsReport]:
    for (issuer, kid), one in lists.items():
        if (issuer, kid) not in revoked.keys:
            yield RevocationsReport(one.listed, kid, files[one.listed])


def in_tables(reports: Iterable[DocumentReport]) -> list[object]:
    """What of these the tables are compiled from: equal as long as they need not be compiled again."""
    return [_in_tables(one) for one in reports if _has_candidates(one)]


def _has_candidates(report: DocumentReport) -> bool:
    return isinstance(report.document, LicenseDocument) and report.standing.state is not State.UNVERIFIED


def _in_tables(report: DocumentReport) -> object:
    state = State.VALID if report.standing.state in BY_TIME else report.standing.state
    return report.file, report.is_copy, report.verified, state, report.document
