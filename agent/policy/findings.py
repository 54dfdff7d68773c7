"""Collects all mistakes of a policy in one pass, in the operator's words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from agent.errors import PolicyError, PolicyErrors
from agent.policy.values import Finding, Place


@dataclass(slots=True)
class Findings:
    """Errors make a policy unusable. Warnings are about things that the operator probably did not intend."""

    errors: list[Finding] = field(default_factory=list)
    warnings: list[Finding] = field(default_factory=list)

    def error(self, place: Place, reason: str, remedy: str = "") -> None:
        self.errors.append(Finding(place, reason, remedy))

    def warn(self, place: Place, reason: str, remedy: str = "") -> None:
        self.warnings.append(Finding(place, reason, remedy))

    def raise_errors(self, files: Sequence[str]) -> None:
        """Raises PolicyErrors if there was any error, in the order of `files` and lines."""
        if self.errors:
            raise policy_errors(in_order(self.errors, files))


def in_order(findings: Iterable[Finding], files: Sequence[str]) -> list[Finding]:
    rank = {file: number for number, file in enumerate(files)}
    unique = dict.fromkeys(findings)
    return sorted(unique, key=lambda each: (rank.get(each.place.file, len(rank)), each.place.line or 0))


def policy_errors(findings: Iterable[Finding]) -> PolicyErrors:
    return PolicyErrors(
        [
            PolicyError(path=each.place.file, line=each.place.line, reason=each.reason, remedy=each.remedy)
            for each in findings
        ]
    )
