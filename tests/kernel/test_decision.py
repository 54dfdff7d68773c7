"""The kernel decides what `evaluate` decides and what the policy says, whatever the policy, the host and the
attempt: local consumers, by real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from agent.model import Destination, HostFacts, LocalConsumer, Origin, Verdict
from agent.policy.decision.evaluate import evaluate
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from tests.fixtures import cgroups, naive, policies
from tests.kernel.decision_cases import Case, Translation, cases, named
from tests.kernel.decision_world import Judged, Seen, World, client_of

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        for path in [*policies.PATHS, policies.DEEP_PATH]:
            # two names of one file are two executables
            made.add_program(path, link=path in ("/opt/app/bin/other", "/opt/other/bin/server"))
        yield made


def expected(verdict: Verdict, consumer: LocalConsumer, destination: Destination, facts: HostFacts) -> Seen:
    if not verdict.target:
        return Seen(outbound=1)
    origin = Origin.LOOPBACK if consumer.netns == facts.host_netns else Origin.CONTAINER
    return Seen({Judged(verdict, origin, destination.protocol): 1})


@settings(
    max_examples=120,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(cases(), st.integers(0, 6))
def test_the_kernel_decides_what_the_tables_and_the_policy_say(world: World, case: Case, hour: int) -> None:
    to = Translation(world)
    text = yaml.safe_dump(to.document(case.document), sort_keys=False)
    facts, ids = to.facts(case.facts, hour), Ids()
    note(f"{text}\n{facts}")
    policy = policies.with_states(parse_policy(text), case.states)
    tables = compile_policy(policy, facts, ids).tables
    world.install(tables)
    # these are made under the policy in force: it takes in those that it names
    entered = {path for attempt in case.attempts for path in to.consumer(attempt.consumer).cgroups}
    for path in sorted(entered, key=len):
        there = cgroups.directory(path).exists()
        number = world.make(path, facts.delegated)
        if not there:
            world.settle(path, number, tables)
    for attempt in case.attempts:
        consumer = to.consumer(attempt.consumer)
        destination = replace(attempt.destination, netns=consumer.netns)
        seen = world.attempt(client_of(consumer, world.lab.scope), destination, mapped=attempt.mapped)
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        verdict = evaluate(tables, consumer, destination, now_ns)
        note(f"{consumer}\n{destination}\n{verdict}")
        assert seen == expected(verdict, consumer, destination, facts)
        assert named(verdict, ids) == naive.judge(policy, facts, consumer, destination, now_ns)
