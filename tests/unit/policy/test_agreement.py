"""The compiled tables decide what the policy says, whatever the policy, the host and the attempt."""

from __future__ import annotations

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.model import Consumer, Decision, Destination, HostFacts, Reason, Verdict
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide, evaluate, row_of_target
from agent.policy.decision.explain import explain
from agent.policy.decision.matching import Holds, match_principal
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import CANDIDATES, LISTED_GROUPS, NO_GID, Dimension, SetId
from agent.policy.values import ANYONE, Policy
from tests.fixtures import naive, policies

Attempt = tuple[Consumer, Destination, int]
ATTEMPTS: st.SearchStrategy[list[Attempt]] = st.lists(
    st.tuples(policies.consumers(), policies.destinations(), policies.times_boot_ns()), min_size=1, max_size=8
)
SLOW = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def named(verdict: Verdict, ids: Ids) -> naive.NaiveVerdict:
    names = {number: name for name, number in ids.to_json()["grants"].items()}
    return naive.NaiveVerdict(
        verdict.decision, verdict.reason, ids.target_named(verdict.target), names.get(verdict.grant, "")
    )


@SLOW
@given(policies.policies(), policies.host_facts(), ATTEMPTS)
def test_tables_decide_what_the_policy_says(
    policy: Policy, facts: HostFacts, attempts: list[Attempt]
) -> None:
    ids = Ids()
    tables = compile_policy(policy, facts, ids).tables
    for consumer, destination, now in attempts:
        verdict = evaluate(tables, consumer, destination, now)
        assert named(verdict, ids) == naive.judge(policy, facts, consumer, destination, now)


@SLOW
@given(policies.policies(), policies.host_facts(), policies.consumers(), policies.times_boot_ns())
def test_every_target_is_decided_as_the_policy_says(
    policy: Policy, facts: HostFacts, consumer: Consumer, now: int
) -> None:
    ids = Ids()
    tables = compile_policy(policy, facts, ids).tables
    for target in policy.targets:
        row = row_of_target(tables, target)
        assert row is not None
        verdict = decide(tables, row, who_is(tables, consumer), now)
        assert named(verdict, ids) == naive.judge_target(policy, facts, consumer, target, now)


@SLOW
@given(policies.policies(), policies.dead_licenses(), policies.host_facts(), ATTEMPTS)
def test_any_number_of_licenses_that_only_deny_takes_no_right(
    policy: Policy, dead: list[policies.Dead], facts: HostFacts, attempts: list[Attempt]
) -> None:
    """They may tell another reason: not all have room."""
    policy, ids = policies.with_dead(policy, dead), Ids()
    tables = compile_policy(policy, facts, ids).tables
    for consumer, _, now in attempts:
        for row in tables.rows.values():
            assert len(row.candidates) <= CANDIDATES
            found = named(decide(tables, row, who_is(tables, consumer), now), ids)
            expected = naive.judge_target(policy, facts, consumer, row.target, now)
            if expected.decision is Decision.DENIED and expected.reason is not Reason.UNRESOLVED:
                assert found.decision is Decision.DENIED
                assert found.reason <= expected.reason
            else:
                assert found == expected


@SLOW
@given(policies.policies(), policies.host_facts(), policies.consumers())
def test_an_explanation_matches_selectors_as_the_policy_says(
    policy: Policy, facts: HostFacts, consumer: Consumer
) -> None:
    compiled = compile_policy(policy, facts, Ids())
    expected = {True: Holds.YES, None: Holds.MAYBE, False: Holds.NO}
    licensed = {name for one in policy.licenses for each in one.entitlements for name in each.principals}
    excluded = {each.principal for each in policy.exclusions}
    asked = [(name, False) for name in licensed] + [(name, True) for name in excluded] + [(ANYONE, False)]
    for principal, excluding in asked:
        matches = match_principal(compiled, principal, consumer, excluding=excluding)
        found = {match.holds for match in matches}
        strongest = next(each for each in (Holds.YES, Holds.MAYBE, Holds.NO) if each in found)
        assert strongest is expected[naive.includes(policy, facts, principal, consumer, excluding=excluding)]


@SLOW
@given(policies.policies(), policies.host_facts(), policies.consumers(), policies.times_boot_ns())
def test_an_explanation_ends_with_the_decision_of_the_tables(
    policy: Policy, facts: HostFacts, consumer: Consumer, now: int
) -> None:
    compiled = compile_policy(policy, facts, Ids())
    for target in policy.targets:
        row = row_of_target(compiled.tables, target)
        assert row is not None
        found = explain(policy, compiled, consumer, target, now)
        assert found.verdict == decide(compiled.tables, row, who_is(compiled.tables, consumer), now)
        assert found.to_text()


@SLOW
@given(policies.policy_texts(), policies.host_facts())
def test_compiling_again_gives_the_same_tables(text: str, facts: HostFacts) -> None:
    first, second = (compile_policy(parse_policy(text), facts, Ids()).tables for _ in range(2))
    assert first == second
    assert list(first.members.items()) == list(second.members.items())
    rows = [*first.rows.values(), *first.owners.values()]
    lists = {row.gid_list + part for row in rows if row.gid_list for part in (0, 1)}
    free = [bits for n, bits in enumerate(first.sets) if n >= SetId.FIRST_FREE and n not in lists]
    assert len(set(free)) == len(free), "equal sets are stored once"


@SLOW
@given(policies.policy_texts(), policies.host_facts())
def test_a_row_lists_the_groups_that_it_speaks_of(text: str, facts: HostFacts) -> None:
    tables = compile_policy(parse_policy(text), facts, Ids()).tables
    for row in (*tables.rows.values(), *tables.owners.values()):
        spoken = tables.sets[row.excluded]
        for candidate in row.candidates:
            spoken |= tables.sets[candidate.principal]
        silent = tables.sets[SetId.MISS + Dimension.GID]
        matter = {
            value
            for (dimension, value), number in tables.members.items()
            if dimension is Dimension.GID and (tables.sets[number] & ~silent) & spoken
        }
        whole = tables.sets[row.gid_list] | tables.sets[row.gid_list + 1] << 1024
        listed = {whole >> 32 * place & NO_GID for place in range(LISTED_GROUPS)} - {NO_GID}
        assert (listed if row.gid_list else set()) == matter
