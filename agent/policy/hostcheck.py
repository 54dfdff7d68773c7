"""Selectors that can match nothing on this host: warned about, since a policy may be written ahead."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model import HostFacts
from agent.policy.cgroups import unit_of
from agent.policy.paths import ExeKind, exe_kind, exe_matches
from agent.policy.values import Finding, Policy, Selector


def host_warnings(policy: Policy, facts: HostFacts) -> list[Finding]:
    """An executable counts as there if it is among the facts' executables or real paths. Units are looked
    for only where the facts know cgroups at all."""
    paths = facts.executables | set(facts.realpaths) | set(facts.realpaths.values())
    units = {unit for path in facts.cgroups if (unit := _last_unit(path))}
    findings: list[Finding] = []
    for what, selector in _selectors(policy):
        for reason, remedy in _doubts(selector, facts, paths, units):
            findings.append(Finding(selector.place, f"{what}: {reason}", remedy))
    return findings


def _selectors(policy: Policy) -> Iterator[tuple[str, Selector]]:
    for principal in policy.principals.values():
        for selector in principal.selectors:
            yield f"principal '{principal.name}'", selector
    for service in policy.services.values():
        for selector in service.owner:
            yield f"service '{service.name}', owner", selector


def _doubts(
    selector: Selector, facts: HostFacts, paths: set[str] | frozenset[str], units: set[str]
) -> Iterator[tuple[str, str]]:
    for pattern in selector.exe:
        # A ** may stand for a whole tree, which nobody has searched.
        if pattern in paths or "**" in pattern:
            continue
        if exe_kind(pattern) is ExeKind.LITERAL or not any(exe_matches(pattern, path) for path in paths):
            yield f"no file on this host is '{pattern}'", "correct the path, or install the program"
    for user in selector.users:
        if user not in facts.users:
            yield f"user '{user}' does not exist on this host", "correct the name, or create the user"
    for group in selector.groups:
        if group not in facts.groups:
            yield f"group '{group}' does not exist on this host", "correct the name, or create the group"
    for unit in selector.units if facts.cgroups else ():
        if unit not in units:
            yield f"unit '{unit}' is not running on this host", "correct the name, or start it"


def _last_unit(path: str) -> str:
    leaf = path.rpartition("/")[2]
    return unit_of(path) or (leaf if leaf.endswith(".slice") else "")
