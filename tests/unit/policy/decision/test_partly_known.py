"""What is not known of a consumer never makes up an answer."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import HealthCheck, given, settings

from agent.model import Decision, HostFacts, LocalConsumer, Reason, to_address, to_network
from agent.policy.decision.consumer_sets import who_is
from agent.policy.decision.evaluate import decide, row_of_target
from agent.policy.decision.partly_known import spoken_groups, told_apart, who_could_be
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.terms.networks import NEAR, around
from agent.policy.values import Policy
from tests.fixtures import policies

SLOW = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


@SLOW
@given(policies.policies(), policies.host_facts(), policies.local_consumers(), policies.times_boot_ns())
def test_who_is_refused_without_some_facts_is_who_is_refused_with_them(
    policy: Policy, facts: HostFacts, consumer: LocalConsumer, now: int
) -> None:
    """Which of several rights lets him in may differ: one that is in doubt gives way to one that is not."""
    tables = compile_policy(policy, facts, Ids()).tables
    seen = replace(consumer, gids=frozenset(), in_pid_namespace=False, exe_elsewhere=False, owners=())
    for target in policy.targets:
        row = row_of_target(tables, target)
        assert row is not None
        could = decide(tables, row, who_could_be(tables, seen, spoken_groups(tables)), now, lambda _: True)
        if could.reason is not Reason.UNRESOLVED:
            known = decide(tables, row, who_is(tables, consumer), now, lambda _: True)
            assert (could.decision is Decision.DENIED) == (known.decision is Decision.DENIED)


def test_networks_in_which_addresses_are_told_apart() -> None:
    sources = map(to_network, ("10.1.2.128/25", "10.1.3.0/24", "10.0.0.0/8", "fd00:1::/65", "fd00:2::/64"))
    assert told_apart(sources) == {to_network("10.1.2.0/24"), to_network("fd00:1::/64")}
    assert around(to_address("10.1.2.7"), NEAR) == to_network("10.1.2.0/24")
    assert around(to_address("fd00:1::7"), NEAR) == to_network("fd00:1::/64")
