"""Policy files into one checked Policy: find, read, merge, check; every mistake in one pass."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.policy import check
from agent.policy.draft import Draft
from agent.policy.findings import Findings, in_order, policy_errors
from agent.policy.values import Finding, Place, Policy, UndeclaredListeners
from agent.policy.yamltext import Text, Unreadable, parse_yaml, read_yaml


def find_policy_files(path: Path, policy_dir: Path) -> list[Path]:
    """The main file, if it is there, then policy_dir/*.yaml in name order. Empty: there is no policy.

    A directory that is not there, or vanishes, is an empty one. Hidden files (an editor's) are left out.
    Raises PolicyErrors for a place that may not be looked at."""
    try:
        main = [path] if path.exists() else []
        parts = sorted(
            entry for entry in policy_dir.iterdir() if entry.suffix == ".yaml" and entry.name[0] != "."
        )
    except (FileNotFoundError, NotADirectoryError):
        return main
    except OSError as error:
        place = Place(str(error.filename or policy_dir))
        raise policy_errors([Finding(place, f"cannot be read: {error.strerror}")]) from error
    return main + [entry for entry in parts if entry != path]


def load_policy(path: Path, policy_dir: Path) -> Policy | None:
    """The policy in these places; None if there is no file at all. Raises PolicyErrors."""
    files = find_policy_files(path, policy_dir)
    return load_policy_files(files) if files else None


def load_policy_files(files: Sequence[Path]) -> Policy:
    """Files merged in the order given. Raises PolicyErrors with every mistake in all of them."""
    texts: list[Text] = []
    findings = Findings()
    for file in files:
        try:
            texts.append(read_yaml(file))
        except Unreadable as error:
            findings.errors.extend(error.findings)
    return _policy(texts, [str(file) for file in files], findings)


def parse_policy(text: str, name: str = "policy.yaml") -> Policy:
    """A policy from text. Raises PolicyErrors; `name` stands for the file in them."""
    findings = Findings()
    texts: list[Text] = []
    try:
        texts.append(parse_yaml(text, name))
    except Unreadable as error:
        findings.errors.extend(error.findings)
    return _policy(texts, [name], findings)


def _policy(texts: Sequence[Text], files: Sequence[str], findings: Findings) -> Policy:
    draft = Draft(findings)
    for text in texts:
        draft.add(text)
    if texts and all(text.data is None for text in texts):
        # an editor that truncates before it writes must not put "no policy" in force for a moment
        findings.error(Place(files[0]), "the policy says nothing", "write at least `version: 1`")
    if len(texts) == len(files):
        # With a file missing, every name in it would be called undefined.
        check.check_draft(draft)
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
