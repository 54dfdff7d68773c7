"""Turns policy files into one checked Policy: find, read, merge, check. Every mistake is found in one
pass."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

from agent import given
from agent.errors import PolicyErrors
from agent.policy.document import check
from agent.policy.document.draft import Draft
from agent.policy.document.yamltext import Text, Unreadable, parse_content, read_content
from agent.policy.findings import Findings, in_order, policy_errors
from agent.policy.values import Finding, Place, Policy, UndeclaredListeners
from agent.system import ownership
from agent.system.files import kind, read_bytes

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True, slots=True)
class Source:
    """One policy file, as it was read."""

    file: str
    content: bytes


@dataclass(frozen=True, slots=True)
class Loaded:
    """A policy, and the files it was read from."""

    policy: Policy
    sources: tuple[Source, ...]


def is_policy_file(path: Path) -> bool:
    """True if a file of policy.d belongs to the policy. Hidden files (an editor's) do not."""
    return path.suffix in SUFFIXES and not path.name.startswith(".")


def find_policy_files(path: Path, policy_dir: Path) -> list[Path]:
    """The main file, if it exists, then those of policy_dir in name order. Empty: there is no policy.

    A directory that does not exist, or vanishes, counts as empty. A dangling link counts as a file, because
    its target may be on a file system that is not mounted. Raises PolicyErrors for a directory that cannot be
    read.
    """
    main = [path] if os.path.lexists(path) else []
    try:
        parts = sorted(entry for entry in policy_dir.iterdir() if is_policy_file(entry))
    except (FileNotFoundError, NotADirectoryError) as error:
        if policy_dir.is_symlink():
            raise _unreadable(policy_dir, error) from error
        return main
    except OSError as error:
        raise _unreadable(policy_dir, error) from error
    files = main + [entry for entry in parts if entry != path]
    if odd := [file for file in files if not _is_readable(file)]:
        raise policy_errors([_no_file(file) for file in odd])
    return files


def _unreadable(path: Path, error: OSError) -> PolicyErrors:
    found = policy_errors([Finding(Place(str(error.filename or path)), f"cannot be read: {error.strerror}")])
    found.is_unread = True
    return found


def _no_file(file: Path) -> Finding:
    what = kind(file.stat().st_mode)
    return Finding(Place(str(file)), f"cannot be read: it is {what}, and a file is expected", "move it away")


def _is_readable(file: Path) -> bool:
    """False for what open() would block on, such as a FIFO. True for a missing file and a directory: the
    reader reports those."""
    return file.is_file() or file.is_dir() or not file.exists()


def load_in_place(path: Path, policy_dir: Path, now: datetime | None = None) -> Loaded | None:
    """The policy in these places; None if there is no file at all. `now`: the time by which licenses have
    ended; None: the wall clock. Raises PolicyErrors, also if a user other than root (or this process's own)
    could have written it."""
    files = find_policy_files(path, policy_dir)
    errors, warnings = ownership_findings([path, policy_dir, *files])
    if errors:
        raise policy_errors(errors)
    if not files:
        return None
    findings = Findings()
    sources = _read(files, findings, read_bytes)
    try:
        policy = _parsed(sources, [str(file) for file in files], findings, now)
    except PolicyErrors as error:
        error.is_unread = len(sources) < len(files)
        raise
    return Loaded(replace(policy, warnings=(*warnings, *policy.warnings)), tuple(sources))


def ownership_findings(paths: Sequence[Path]) -> tuple[list[Finding], list[Finding]]:
    """(errors, warnings) about other users who could write these files."""
    doubts = ownership.doubts(paths)
    found = [(doubt.refuses, Finding(Place(str(doubt.path)), doubt.reason, doubt.remedy)) for doubt in doubts]
    return [one for refuses, one in found if refuses], [one for refuses, one in found if not refuses]


def load_policy_files(files: Sequence[Path], now: datetime | None = None) -> Policy:
    """Files merged in the order given. `now`: as in load_in_place. Raises PolicyErrors with every mistake in
    all of them."""
    findings = Findings()
    return _parsed(_read(files, findings), [str(file) for file in files], findings, now)


def parse_sources(sources: Sequence[Source], now: datetime | None = None) -> Policy:
    """Like load_policy_files, for text that was read already. `now`: as in load_in_place."""
    return _parsed(sources, [source.file for source in sources], Findings(), now)


def _read(
    files: Sequence[Path], findings: Findings, read: Callable[[Path, int], bytes] = given.read
) -> list[Source]:
    sources = []
    for file in files:
        try:
            sources.append(Source(str(file), read_content(file, read=read)))
        except Unreadable as error:
            findings.errors.extend(error.findings)
    return sources


def _parsed(
    sources: Sequence[Source], files: Sequence[str], findings: Findings, now: datetime | None = None
) -> Policy:
    texts: list[Text] = []
    for source in sources:
        try:
            texts.append(parse_content(source.content, source.file))
        except Unreadable as error:
            findings.errors.extend(error.findings)
    digest = hashlib.sha256(b"".join(source.content for source in sources)).hexdigest()
    return replace(_policy(texts, files, findings, now), sha256=digest)


def parse_policy(text: str, name: str = "policy.yaml") -> Policy:
    """A policy from text. Raises PolicyErrors, in which `name` stands for the file."""
    return parse_sources([Source(name, text.encode())])


def _policy(texts: Sequence[Text], files: Sequence[str], findings: Findings, now: datetime | None) -> Policy:
    draft = Draft(findings)
    for text in texts:
        draft.add(text)
    if texts and all(text.data is None for text in texts):
        # an editor that truncates before it writes must not put "no policy" in force for a moment
        findings.error(Place(files[0]), "the policy is empty", "write at least `version: 1`")
    if len(texts) == len(files):
        # With a file missing, every name in it would be called undefined.
        check.check_draft(draft, now)
    findings.raise_errors(files)
    return Policy(
        services={name: service for name, service in draft.services.items() if service},
        principals={name: principal for name, principal in draft.principals.items() if principal},
        licenses=tuple(draft.licenses),
        exclusions=tuple(draft.exclusions),
        enforcement={name: mode for name, (mode, _) in draft.enforcement.items()},
        undeclared_listeners=draft.undeclared_listeners or UndeclaredListeners.REPORT,
        files=tuple(files),
        warnings=tuple(in_order(findings.warnings, files)),
    )
