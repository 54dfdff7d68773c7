"""Explains a decision: the rules that were evaluated, in the order of decide(), each with its place. Reads
the same tables as `evaluate`. This module words the explanation; it does not decide."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from agent.model import (
    Consumer,
    Decision,
    Destination,
    Reason,
    Target,
    Verdict,
    show_endpoint,
    show_utc,
)
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide, outcome, row_of_destination, row_of_target
from agent.policy.decision.matching import Holds, Match, match_principal
from agent.policy.tables.compile import Compiled
from agent.policy.tables.grants import PlannedGrant
from agent.policy.tables.shape import Candidate, TargetRow
from agent.policy.validity import described
from agent.policy.values import Place, Policy, Window


@dataclass(frozen=True, slots=True)
class Rule:
    """An exclusion or a grant that was evaluated, and its result for this consumer."""

    rule: str
    place: Place
    principal: str
    holds: Holds
    yields: str
    selectors: tuple[Match, ...]


@dataclass(frozen=True, slots=True)
class Explanation:
    """`verdict` is the kernel's. `summary` gives it in one sentence, with the rule's file and line."""

    target: Target | None
    found: str
    """Which target was found, and where it is declared."""
    verdict: Verdict
    summary: str
    rules: tuple[Rule, ...] = ()

    @property
    def denied(self) -> bool:
        return self.verdict.decision is Decision.DENIED

    def to_json(self) -> dict[str, Any]:
        """As `licet explain --json` prints it."""
        return {
            "service": self.target.service if self.target else None,
            "class": self.target.port_class.value if self.target else None,
            "found": self.found,
            "decision": self.verdict.decision.name.lower(),
            "reason": self.verdict.reason.name.lower(),
            "summary": self.summary,
            "rules": [
                {
                    "rule": rule.rule,
                    "place": str(rule.place),
                    "principal": rule.principal,
                    "holds": rule.holds.value,
                    "yields": rule.yields,
                    "selectors": [
                        {
                            "place": str(match.place) if match.place else None,
                            "holds": match.holds.value,
                            "why": match.why,
                        }
                        for match in rule.selectors
                    ],
                }
                for rule in self.rules
            ],
        }

    def to_text(self) -> str:
        """For a terminal: the summary, then each rule with its selectors."""
        lines = [self.summary, f"  {self.found}"]
        for rule in self.rules:
            lines.append(f"  {rule.place}: {rule.rule}: {rule.yields}")
            lines.extend(
                f"      {match.holds.value:5} {match.place or 'built in'}: {match.why}"
                for match in rule.selectors
            )
        return "\n".join(lines)


def explain(
    policy: Policy | None,
    compiled: Compiled,
    consumer: Consumer,
    asked: Target | Destination,
    now_boot_ns: int,
) -> Explanation:
    """The decision for the consumer at that time, and the reasons. Raises KeyError for a target that the
    policy lacks. A destination that no service declares is an ordinary answer."""
    row = _row(compiled, asked)
    if policy is None or row is None:
        verdict = Verdict(Decision.ALLOWED, Reason.LICENSED)
        where = _where(asked)
        return Explanation(
            None, f"no service declares {where}", verdict, f"{where} is not protected: allowed"
        )
    verdict = decide(compiled.tables, row, who_is(compiled.tables, consumer), now_boot_ns)
    exclusions = tuple(_exclusions(policy, compiled, consumer, row))
    grants = tuple(_grants(compiled, consumer, row, now_boot_ns))
    deciding = _deciding(compiled, row, verdict, grants, now_boot_ns)
    summary = _summary(policy, compiled, row, verdict, exclusions, grants, deciding)
    return Explanation(row.target, _found(policy, row, asked), verdict, summary, (*exclusions, *grants))


def _row(compiled: Compiled, asked: Target | Destination) -> TargetRow | None:
    if isinstance(asked, Destination):
        return row_of_destination(compiled.tables, asked)
    row = row_of_target(compiled.tables, asked)
    if row is None:
        raise KeyError(str(asked))
    return row


def _where(asked: Target | Destination) -> str:
    if isinstance(asked, Target):
        return str(asked)
    return show_endpoint(asked.address, asked.port, asked.protocol)


def _found(policy: Policy, row: TargetRow, asked: Target | Destination) -> str:
    service = policy.services[row.target.service]
    ports = [port for port in service.ports if port.port_class is row.target.port_class]
    if isinstance(asked, Destination):
        ports = [port for port in ports if port.takes(asked.protocol, asked.port)] or ports
    listed = ", ".join(str(port) for port in ports)
    place = "this host" if service.at_host else "its own addresses"
    if service.at_containers:
        place = f"containers with {' or '.join(map(str, service.at_containers))}"
    return f"target {row.target} is port {listed} at {place} ({ports[0].place}), product {service.product}"


def _exclusions(policy: Policy, compiled: Compiled, consumer: Consumer, row: TargetRow) -> Iterator[Rule]:
    for exclusion in policy.exclusions:
        if not exclusion.covers(row.target):
            continue
        matches = match_principal(compiled, exclusion.principal, consumer, excluding=True)
        holds = _strongest(matches)
        yields = {
            Holds.YES: "denied, excluded",
            Holds.MAYBE: "would exclude, once the consumer is known",
            Holds.NO: "does not include this consumer",
        }[holds]
        rule = f"restriction excludes {exclusion.principal}"
        yield Rule(rule, exclusion.place, exclusion.principal, holds, yields, tuple(matches))


def _grants(compiled: Compiled, consumer: Consumer, row: TargetRow, now_boot_ns: int) -> Iterator[Rule]:
    for candidate, plan in zip(row.candidates, compiled.plans[row.target], strict=True):
        matches = match_principal(compiled, plan.principal, consumer)
        holds = _strongest(matches)
        rule = f"{_named(plan)}, principal {plan.principal}"
        yields = _yields(row, candidate, plan, holds, now_boot_ns)
        yield Rule(rule, plan.entitlement.place, plan.principal, holds, yields, tuple(matches))


def _yields(row: TargetRow, candidate: Candidate, plan: PlannedGrant, holds: Holds, now_boot_ns: int) -> str:
    if holds is Holds.NO:
        return "does not include this consumer"
    verdict = outcome(row, candidate, now_boot_ns)
    told = _word(verdict.decision)
    if verdict.decision is not Decision.ALLOWED:
        told += f", {_word(verdict.reason)}"
    if holds is Holds.MAYBE:
        told = f"would be: {told}, once the consumer is known"
    return f"{told} ({_window(plan.window)})"


def _window(window: Window) -> str:
    parts = []
    if window.starts_at:
        parts.append(f"from {show_utc(window.starts_at)}")
    if window.expires_at:
        parts.append(f"until {show_utc(window.expires_at)}")
    if window.ends_at and window.ends_at != window.expires_at:
        parts.append(f"grace until {show_utc(window.ends_at)}")
    return ", ".join(parts) or "no time limit"


def _strongest(matches: Iterable[Match]) -> Holds:
    held = {match.holds for match in matches}
    return next((each for each in (Holds.YES, Holds.MAYBE) if each in held), Holds.NO)


def _deciding(
    compiled: Compiled, row: TargetRow, verdict: Verdict, grants: Iterable[Rule], now_boot_ns: int
) -> PlannedGrant | None:
    """The grant that decided. Several documents of one license share its number."""
    found = zip(row.candidates, compiled.plans[row.target], grants, strict=True)
    return next(
        (
            plan
            for candidate, plan, rule in found
            if verdict.grant and rule.holds is Holds.YES and outcome(row, candidate, now_boot_ns) == verdict
        ),
        None,
    )


def _summary(
    policy: Policy,
    compiled: Compiled,
    row: TargetRow,
    verdict: Verdict,
    exclusions: Iterable[Rule],
    grants: Iterable[Rule],
    deciding: PlannedGrant | None,
) -> str:
    head = f"{row.target}: {_word(verdict.decision)}, {_word(verdict.reason)}"
    service = policy.services[row.target.service]
    if deciding:
        return f"{head}: {_named(deciding)} ({deciding.entitlement.place})"
    if verdict.reason is Reason.EXCLUDED:
        exclusion = next(rule for rule in exclusions if rule.holds is Holds.YES)
        return f"{head}: {exclusion.rule} ({exclusion.place})"
    if verdict.reason is Reason.NO_LICENSE:
        return f"{head}: no license covers this target; product {service.product} ({service.place})"
    if verdict.reason is Reason.UNRESOLVED:
        return f"{head}: too little is known of the consumer, so on_unresolved decides ({service.place})"
    for plan, rule in zip(compiled.plans[row.target], grants, strict=True):
        if plan.license.state is verdict.reason and rule.holds is Holds.YES:
            return f"{head}: {_named(plan)} ({plan.entitlement.place})"
    return f"{head}: no entitlement for this target includes this consumer ({service.place})"


def _named(plan: PlannedGrant) -> str:
    return f"license {described(plan.license)}, entitlement {plan.entitlement.id}"


def _word(value: Decision | Reason) -> str:
    return value.name.lower()
