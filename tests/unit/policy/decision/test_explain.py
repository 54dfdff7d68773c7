"""Explanations: the rule that decides, with its place, and why the others do not."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from agent.model import Consumer, Decision, HostFacts, PortClass, Reason, RemoteConsumer, Target, to_address
from agent.policy.decision.explain import Explanation, explain
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from tests.fixtures import policies
from tests.unit.policy.decision.test_evaluate import BILLING, DB, FACTS, NOBODY, SRE
from tests.unit.policy.mistakes import WHOLE

INTERNAL = Target("db", PortClass.INTERNAL)


def explained(
    consumer: Consumer,
    text: str = WHOLE,
    asked: object = INTERNAL,
    now_s: int = 0,
    facts: HostFacts = FACTS,
) -> Explanation:
    policy = parse_policy(text)
    compiled = compile_policy(policy, facts, Ids())
    return explain(policy, compiled, consumer, asked, now_s * 10**9)  # type: ignore[arg-type]


def test_the_rule_that_allows_is_named_with_its_place() -> None:
    found = explained(BILLING)
    assert found.summary == "db/internal: allowed, licensed: license l1, entitlement app (policy.yaml:14)"
    assert [(rule.principal, rule.yields) for rule in found.rules] == [
        ("billing", "allowed (no time limit)"),
        ("ops", "does not include this consumer"),
    ]


def test_a_selector_that_fails_says_in_which_key() -> None:
    text = WHOLE.replace(
        "{group: sre}", "{exe: /bin/y}, {exe: /bin/x, user: billing}, {group: sre}, {cidr: 10.0.0.0/8}"
    )
    reasons = [match.why for match in explained(NOBODY, text).rules[1].selectors]
    assert reasons[:3] == ["exe /bin/x is not /bin/y", "uid 9 is not user billing", "gid 9 is not group sre"]
    assert "10.0.0.0/8" in reasons[3]
    (unit,) = explained(NOBODY, text).rules[0].selectors
    assert unit.why == "cgroup / is not in billing.service"
    assert str(unit.place) == "policy.yaml:8"


def test_nobody_is_told_that_no_entitlement_includes_it() -> None:
    found = explained(NOBODY)
    assert found.denied
    why = "no entitlement for this target includes this consumer (policy.yaml:3)"
    assert found.summary == f"db/internal: denied, unlicensed_principal: {why}"


def test_an_exclusion_is_named_with_its_place() -> None:
    found = explained(SRE, WHOLE + "restrictions:\n  - {exclude: ops, target: db}\n")
    assert found.summary == "db/internal: denied, excluded: restriction excludes ops (policy.yaml:16)"


def test_who_is_excluded_as_somebody_else_is_told_why() -> None:
    """A member of the group, by a subordinate id or in his own user namespace."""
    facts = replace(FACTS, members={2001: frozenset({1001})}, subordinates={1001: (range(165536, 165546),)})
    text = WHOLE + "restrictions:\n  - {exclude: ops, target: db}\n"
    for consumer, why in (
        (SRE, "group sre"),
        (replace(SRE, uid=165536), "group sre"),
        (replace(NOBODY, uid=165536), "group sre: uid 165536 is a subordinate id of theirs"),
        (replace(NOBODY, owners=((1001, 9),)), "group sre: it is in a user namespace that they own"),
    ):
        assert explained(consumer, text, facts=facts).rules[0].selectors[0].why == why
    assert explained(replace(NOBODY, uid=165546), text, facts=facts).rules[0].yields != "denied, excluded"


def test_an_expired_license_is_named() -> None:
    text = WHOLE.replace("    entitlements", "    expires_at: 2026-06-01T00:00:10Z\n    entitlements")
    found = explained(BILLING, text, now_s=10)
    assert found.summary == "db/internal: denied, expired: license l1, entitlement app (policy.yaml:15)"
    assert found.rules[0].yields == "denied, expired (until 2026-06-01 00:00:10 UTC)"


def test_of_a_license_in_grace_and_its_renewal_both_are_told_and_the_renewal_decides() -> None:
    window = "    expires_at: 2026-06-01T00:00:10Z\n    terminates_at: 2026-06-01T00:00:20Z\n"
    renewal = "  - {id: l2, product: acme, entitlements: [{id: app, principals: [billing]}]}\n"
    text = WHOLE.replace("    entitlements", f"{window}    entitlements") + renewal
    found = explained(BILLING, text, now_s=11)
    assert found.summary == "db/internal: allowed, licensed: license l2, entitlement app (policy.yaml:17)"
    assert [rule.yields.partition(" (")[0] for rule in found.rules if rule.principal == "billing"] == [
        "grace, expired",
        "allowed",
    ]


def test_what_is_not_known_is_said() -> None:
    text = WHOLE.replace("{group: sre}", "{exe: '/opt/**/run'}")
    found = explained(replace(NOBODY, exe="/opt/never/seen"), text)
    assert (found.verdict.decision, found.verdict.reason) == (Decision.ALLOWED, Reason.UNRESOLVED)
    assert found.rules[1].selectors[0].why == "not known yet whether exe /opt/never/seen is /opt/**/run"
    assert "on_unresolved" in found.summary


def test_without_a_license_the_product_is_named() -> None:
    found = explained(BILLING, WHOLE[: WHOLE.index("licenses:")])
    assert "no_license" in found.summary
    assert "product acme (policy.yaml:3)" in found.summary


def test_a_remote_consumer_is_told_by_network() -> None:
    text = WHOLE.replace("{group: sre}", "{cidr: 10.0.0.0/8}, {cidr: 10.2.0.0/16}, {group: sre}")
    found = explained(RemoteConsumer(to_address("10.9.0.1")), text)
    assert [match.why for match in found.rules[1].selectors] == [
        "10.9.0.1 is in 10.0.0.0/8",
        "needs process data, but remote consumer 10.9.0.1 is known only by its address",
    ]


def test_a_long_address_list_is_not_printed_whole() -> None:
    listed = ", ".join(f"10.{number}.0.0/16" for number in range(100))
    found = explained(
        RemoteConsumer(to_address("192.0.2.9")), WHOLE.replace("group: sre", f"cidr: [{listed}]")
    )
    assert found.rules[1].selectors[0].why.endswith("or 10.3.0.0/16 or …")


def test_a_destination_leads_to_its_target() -> None:
    assert explained(BILLING, asked=DB).target == INTERNAL
    assert "port 5432/tcp at this host (policy.yaml:5)" in explained(BILLING, asked=DB).found


def test_a_destination_in_a_range_is_told_with_the_range() -> None:
    ports = "{port: 100-200, class: internal}, {port: 150-250, class: internal, protocol: udp}"
    text = WHOLE.replace("{port: 5432, class: internal}", ports)
    found = explained(BILLING, text, asked=replace(DB, port=160))
    assert found.target == INTERNAL
    assert found.found.startswith("target db/internal is port 100-200/tcp at this host")
    assert explained(BILLING, text, asked=replace(DB, port=201)).target is None


def test_a_destination_that_nothing_declares_is_not_protected() -> None:
    found = explained(BILLING, asked=replace(DB, port=1))
    assert (found.target, found.denied) == (None, False)
    assert found.summary == "192.0.2.1:1/tcp is not protected: allowed"


def test_a_target_the_policy_does_not_have_is_an_error() -> None:
    with pytest.raises(KeyError, match="db/public"):
        explained(BILLING, asked=Target("db", PortClass.PUBLIC))


def test_an_explanation_is_json() -> None:
    found = json.loads(json.dumps(explained(SRE).to_json()))
    assert (found["service"], found["class"]) == ("db", "internal")
    assert (found["decision"], found["reason"]) == ("allowed", "licensed")
    assert found["rules"][1]["selectors"] == [{"place": "policy.yaml:9", "holds": "yes", "why": "group sre"}]


@pytest.mark.parametrize(
    ("state", "named"),
    [
        (Reason.REVOKED, "license l1, entitlement app"),
        (Reason.BAD_SIGNATURE, "license l1 (not verified), entitlement app"),
    ],
)
def test_a_license_that_does_not_hold_is_named_with_its_state(state: Reason, named: str) -> None:
    policy = policies.with_states(parse_policy(WHOLE), [state])
    found = explain(policy, compile_policy(policy, FACTS, Ids()), BILLING, INTERNAL, 0)
    reason = state.name.lower()
    assert found.summary == f"db/internal: denied, {reason}: {named} (policy.yaml:14)"
    assert [rule.yields.partition(" (")[0] for rule in found.rules] == [
        f"denied, {reason}",
        "does not include this consumer",
    ]
