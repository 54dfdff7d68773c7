"""The pinned keys: the files of paths.keys, or what they held when they could last be read."""

from __future__ import annotations

from pathlib import Path

from agent.daemon.licensing.folder import BRING_BACK, Folder, Listing
from agent.daemon.licensing.store import LicenseStore
from agent.errors import PolicyErrors
from agent.license.values import PinnedKey
from agent.policy.document.key_file import read_key
from agent.policy.values import Finding, Place
from agent.system import ownership

MOST_KEYS = 256
MOST_KEY_BYTES = 16 << 10


class KeyRing:
    """A key file that is there and cannot be read or trusted keeps its last content. One that is gone
    ends its key."""

    def __init__(self, path: Path, store: LicenseStore) -> None:
        self._folder = Folder(path, (".yaml", ".yml"), MOST_KEYS, MOST_KEY_BYTES)
        self._store = store
        self.keys: tuple[PinnedKey, ...] = ()
        self.findings: tuple[Finding, ...] = ()
        self.problem = ""
        """Why the folder itself cannot be read; "" if it can."""

    def read(self) -> None:
        """Read the folder again."""
        known = self._store.keys
        if known and not self._folder.had_files:
            self._folder.expect_files(was_mount=self._store.was_mount("keys"))
        listing = self._folder.read(known)
        path = self._folder.path
        self.problem = f"{path}: {listing.problem}" if listing.problem else ""
        findings: list[Finding] = []
        texts = dict(known) if listing.problem else {}
        if listing.problem:
            why = f"{listing.problem}; its keys stay pinned"
            findings.append(Finding(Place(str(path)), why, BRING_BACK))
        refused = self._writable_by_others(listing, findings)
        keys: list[PinnedKey] = []
        for name in dict.fromkeys((*listing.files, *texts)):
            key, text = self._key(name, listing, findings, refused)
            if key:
                keys.append(key)
                texts[name] = text
        if listing.left_out:
            more = f"{len(listing.left_out)} key files are too many, {MOST_KEYS} are read"
            findings.append(Finding(Place(str(self._folder.path)), more, "remove keys that are not in use"))
        if texts != known:
            self._store.put_keys(texts)
        self._store.put_mount("keys", is_mount=self._folder.is_mount)
        # several files may share a folder that others can write to
        self.keys, self.findings = tuple(keys), tuple(dict.fromkeys(findings))

    def _key(
        self, name: str, listing: Listing, findings: list[Finding], refused: frozenset[str]
    ) -> tuple[PinnedKey | None, str]:
        path = self._folder.path / name
        read = listing.files.get(name)
        if name in refused:
            pass  # what it held when only root could write it is as good as before
        elif read and not read.problem:
            try:
                return read_key(read.content, str(path)), read.content.decode("utf-8", "replace")
            except PolicyErrors as error:
                findings.extend(_findings(error))
        elif read:
            findings.append(Finding(Place(str(path)), read.problem))
        kept = self._store.keys.get(name)
        if read:
            now = "stays pinned as the file had it before" if kept is not None else "is not used"
            findings.append(Finding(Place(str(path)), f"the key {now}"))
        if kept is None:
            return None, ""
        try:
            return read_key(kept.encode(), str(path)), kept
        except PolicyErrors:
            return None, ""

    def _writable_by_others(self, listing: Listing, findings: list[Finding]) -> frozenset[str]:
        """Names of the files that another user could have written: their content is not pinned."""
        refused = set()
        for name in listing.files:
            doubts = [one for one in ownership.doubts([self._folder.path / name]) if one.refuses]
            findings.extend(Finding(Place(str(one.path)), one.reason, one.remedy) for one in doubts)
            if doubts:
                refused.add(name)
        return frozenset(refused)


def _findings(errors: PolicyErrors) -> list[Finding]:
    return [Finding(Place(one.path, one.line), one.reason, one.remedy) for one in errors.errors]
