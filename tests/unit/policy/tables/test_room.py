"""What can only deny takes no room in the kernel's tables from what can grant."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from agent.errors import PolicyErrors
from agent.model import Decision, HostFacts, LocalConsumer, Reason
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide
from agent.policy.document.load import Source, parse_sources
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import CANDIDATES
from agent.policy.values import Policy
from tests.fixtures.policies import in_state

NOW = datetime(2026, 6, 1, tzinfo=UTC)
BEFORE, AFTER = NOW - timedelta(seconds=1), NOW + timedelta(seconds=1)
FACTS = HostFacts(host_netns=7, addresses=(), boot_offset_ns=int(NOW.timestamp()) * 10**9)
NOBODY = LocalConsumer(exe="/bin/x", uid=9, gids=frozenset({9}), cgroups=(), netns=7)
HEAD = """\
version: 1
services: {db: {product: acme, ports: [{port: 5432, class: internal}]}}
"""


def license_(name: str, principals: str = "[anyone]", *, ends: datetime | None = None) -> str:
    window = f"expires_at: {ends.isoformat()}, " if ends else ""
    return f"  - {{id: {name}, product: acme, {window}entitlements: [{{id: e, principals: {principals}}}]}}\n"


def policy(*licenses: str, principals: str = "", now: datetime | None = NOW) -> Policy:
    text = HEAD + principals + "licenses:\n" + "".join(licenses)
    return parse_sources([Source("policy.yaml", text.encode())], now)


def in_states(found: Policy, **states: Reason) -> Policy:
    return replace(found, licenses=tuple(in_state(one, states.get(one.id)) for one in found.licenses))


def of_tables(compiled: Compiled) -> list[str]:
    """The licenses of the one target's candidates."""
    (row,) = compiled.tables.rows.values()
    return [plan.license.id for plan in compiled.plans[row.target]]


def kept(found: Policy, facts: HostFacts = FACTS) -> list[str]:
    return of_tables(compile_policy(found, facts, Ids()))


LASTING = [f"new{number}" for number in range(7)]


def test_the_last_of_those_that_have_ended_gives_way() -> None:
    text = [license_("old1", ends=NOW), license_("old2", ends=NOW), *map(license_, LASTING)]
    found = policy(*text)
    assert kept(found) == ["old1", *LASTING]
    (warning,) = found.warnings
    assert "target db/internal has 9 grants, 8 are the most" in warning.reason
    assert "'old2/e' for 'anyone' grants nothing now and is left out" in warning.reason


def test_while_all_can_grant_too_many_are_a_mistake() -> None:
    text = [license_("old", ends=NOW), license_("soon", ends=AFTER), *map(license_, LASTING)]
    with pytest.raises(PolicyErrors, match="has 9 grants, 8 are the most"):
        policy(*text, now=BEFORE)
    policy(*text, now=NOW)


def test_by_default_the_wall_clock_tells_what_has_ended() -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    with pytest.raises(PolicyErrors, match="has 9 grants, 8 are the most"):
        policy(license_("a", ends=soon), license_("b"), *map(license_, LASTING), now=None)
    policy(license_("a", ends=soon - timedelta(hours=2)), license_("b"), *map(license_, LASTING), now=None)


def test_what_has_room_stays_though_it_has_ended() -> None:
    found = policy(license_("old", ends=NOW), license_("new"))
    assert kept(found) == ["old", "new"]
    assert found.warnings == ()


def test_an_entitlement_that_has_ended_gives_way_like_a_license() -> None:
    entitlements = ", ".join(
        f"{{id: e{number}, principals: [anyone], expires_at: {(NOW if number < 4 else AFTER).isoformat()}}}"
        for number in range(12)
    )
    found = policy(f"  - {{id: l, product: acme, entitlements: [{entitlements}]}}\n")
    compiled = compile_policy(found, FACTS, Ids())
    (row,) = compiled.tables.rows.values()
    assert [compiled.tables.grants[one.grant].entitlement for one in row.candidates] == [
        f"e{number}" for number in range(4, 12)
    ]


@pytest.mark.parametrize("reason", [Reason.MALFORMED, Reason.REVOKED, Reason.SUPERSEDED, Reason.EXPIRED])
def test_a_license_with_a_state_gives_way(reason: Reason) -> None:
    found = policy(license_("old"), *map(license_, LASTING))
    also = policy(license_("older"), license_("oldest"))
    both = replace(found, licenses=(*also.licenses, *found.licenses))
    assert kept(in_states(both, older=reason, old=reason, oldest=reason)) == ["older", *LASTING]


def test_the_state_denies_with_its_reason_whatever_the_window_says() -> None:
    found = in_states(policy(license_("old")), old=Reason.SUPERSEDED)
    tables = compile_policy(found, FACTS, Ids()).tables
    (row,) = tables.rows.values()
    assert [candidate.state for candidate in row.candidates] == [Reason.SUPERSEDED]
    verdict = decide(tables, row, who_is(tables, NOBODY), 0)
    assert (verdict.decision, verdict.reason) == (Decision.DENIED, Reason.SUPERSEDED)
    assert verdict.grant == row.candidates[0].grant


def test_the_facts_tell_the_time_and_the_same_facts_give_the_same_tables() -> None:
    found = policy(license_("old", ends=AFTER), license_("older", ends=NOW), *map(license_, LASTING))
    assert kept(found) == ["old", *LASTING]
    earlier = replace(FACTS, boot_offset_ns=FACTS.boot_offset_ns - 10**9)
    assert len(kept(found, earlier)) == CANDIDATES, "a clock that was set back costs a place, not the policy"
    later = replace(earlier, gathered_boot_ns=2 * 10**9)
    assert kept(found, later) == ["old", *LASTING]
    assert compile_policy(found, later, Ids()).tables == compile_policy(found, later, Ids()).tables


def selectors(count: int) -> str:
    return ", ".join(f"{{uid: {number}}}" for number in range(count))


def groups(first: int, count: int) -> str:
    return f"[{{gid: [{', '.join(map(str, range(first, first + count)))}]}}]"


def excluded_and_licensed(ends: datetime | None) -> tuple[str, list[str]]:
    """Its 600 selectors count twice, as long as a license names them."""
    principals = f"principals: {{many: [{selectors(600)}]}}\nrestrictions: [{{exclude: many, target: db}}]\n"
    return principals, [license_("old", "[many]", ends=ends), license_("new")]


def more_groups_than_a_target_names(ends: datetime | None) -> tuple[str, list[str]]:
    principals = f"principals: {{a: {groups(0, 60)}, b: {groups(60, 60)}}}\n"
    return principals, [license_("old", "[a]", ends=ends), license_("new", "[b]")]


@pytest.mark.parametrize(
    ("written", "reason"),
    [
        (excluded_and_licensed, "1,200 selectors in all"),
        (more_groups_than_a_target_names, "120 groups, 64 are the most"),
    ],
)
def test_what_has_ended_is_left_out_where_the_tables_are_full(
    written: Callable[[datetime | None], tuple[str, list[str]]], reason: str
) -> None:
    principals, licenses = written(None)
    with pytest.raises(PolicyErrors, match=reason):
        policy(*licenses, principals=principals)
    principals, licenses = written(NOW)
    found = policy(*licenses, principals=principals)
    (warning,) = (one for one in found.warnings if "left out" in one.reason)
    assert warning.reason.startswith("license 'old' grants nothing now, at least in part")
    assert reason in warning.reason
    assert kept(found) == ["new"]
    with pytest.raises(PolicyErrors, match="are the most"):
        kept(found, replace(FACTS, boot_offset_ns=FACTS.boot_offset_ns - 10**9))


def test_a_license_that_nobody_has_vouched_for_adds_no_clause() -> None:
    principals = "principals: {some: [{uid: 9}]}\nrestrictions: [{exclude: some, target: db/internal}]\n"
    found = policy(license_("old", "[some]"), principals=principals)

    def clauses(state: Reason) -> int:
        return len(compile_policy(in_states(found, old=state), FACTS, Ids()).clauses)

    without = len(compile_policy(replace(found, licenses=()), FACTS, Ids()).clauses)
    assert {clauses(state) for state in (Reason.MALFORMED, Reason.UNKNOWN_KEY, Reason.BAD_SIGNATURE)} == {
        without
    }
    assert clauses(Reason.REVOKED) == without + 1
