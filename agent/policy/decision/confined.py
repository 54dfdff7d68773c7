"""Principals that lose processes because those run in a container. `exe`, `user` and `group` match only
processes outside containers, unless the selector has `container`. Policies written before that rule also
meant processes inside."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

from agent.model import LocalConsumer, Target
from agent.policy.decision.consumer_sets import in_container, local_steps
from agent.policy.tables.compile import Compiled
from agent.policy.tables.grants import licensed_principals, planned_grants
from agent.policy.values import Finding, Place, Policy

REMEDY = 'add container: "*" to include processes in containers, or name the containers'
REMEDY_ELSEWHERE = "select it by unit or user, without exe: it is not in a container"
_NAMED = 3


@dataclass(frozen=True, slots=True)
class Seen:
    """A running process, or a consumer that has connected."""

    consumer: LocalConsumer
    name: str
    """Its name in messages: its container and its executable."""


def rights_lost(
    policy: Policy,
    compiled: Compiled,
    host_netns: int,
    seen: Iterable[Seen],
    targets: Collection[Target] | None = None,
) -> list[Finding]:
    """One finding for each licensed principal, and for each list of owners, that excludes some of these
    processes because of where they run. `targets`: only principals licensed for one of these, and owners of
    their services. None: all."""
    lost: dict[str, list[Seen]] = {}
    for one in seen:
        for name in _lost_by(compiled, one.consumer):
            lost.setdefault(name, []).append(one)
    findings = []
    for name, what, place, here in _names(policy, targets):
        meant = [one for one in lost.get(name, ()) if not here or one.consumer.netns == host_netns]
        inside = [one for one in meant if in_container(compiled.tables, one.consumer)]
        elsewhere = [one for one in meant if one not in inside]
        if inside:
            reason = f"{what} matches only processes outside containers, so not {_listed(inside)}"
            findings.append(Finding(place, reason, REMEDY))
        if elsewhere:
            names = _listed(elsewhere)
            reason = f"{what} matches only this host's files, so not those in the root directory of {names}"
            findings.append(Finding(place, reason, REMEDY_ELSEWHERE))
    return findings


def _lost_by(compiled: Compiled, consumer: LocalConsumer) -> Iterator[str]:
    """Principals of which every condition holds except the one about containers, by their name in the
    index."""
    meant = held = compiled.index.everything
    for step in local_steps(compiled.tables, consumer):
        held &= step.set
        if not step.confines:
            meant &= step.set
    for name, bits in compiled.index.principals.items():
        if bits & meant and not bits & held:
            yield name


def _names(policy: Policy, targets: Collection[Target] | None) -> Iterator[tuple[str, str, Place, bool]]:
    """(name in the index, name in messages, place, whether it is served in the host's network namespace)."""
    licensed = _licensed(policy, targets)
    owned = None if targets is None else {target.service for target in targets}
    for principal in policy.principals.values():
        if principal.name in licensed:
            yield principal.name, f"principal '{principal.name}'", principal.place, False
    for service in policy.services.values():
        if service.owner and (owned is None or service.name in owned):
            yield (
                service.owner_name,
                f"service '{service.name}', owner",
                service.owner[0].place,
                service.at_host,
            )


def _licensed(policy: Policy, targets: Collection[Target] | None) -> set[str]:
    if targets is None:
        return licensed_principals(policy.licenses)
    grants = planned_grants(policy.services.values(), policy.licenses)
    return {grant.principal for target in targets for grant in grants.get(target, ())}


def _listed(seen: Iterable[Seen]) -> str:
    names = list(dict.fromkeys(one.name for one in seen))
    more = len(names) - _NAMED
    return ", ".join(islice(names, _NAMED)) + (f" and {more} more" if more > 0 else "")
