"""The kernel decides what `evaluate` decides and what the policy says, whatever the policy, the host and the
attempt: local consumers, by real processes."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from agent.model import Destination, HostFacts, LocalConsumer, Namespace, Origin, Verdict
from agent.policy.compile import compile_policy
from agent.policy.document import parse_policy
from agent.policy.evaluate import evaluate
from agent.policy.ids import Ids
from agent.policy.owners import lineage
from tests.fixtures import naive, policies
from tests.kernel.decision_world import Judged, Seen, World, client_of

pytestmark = pytest.mark.root

HALF_AN_HOUR_NS = policies.HOUR_NS // 2
DEEPEST = "/custom" + "/x" * 10
"""With the scope's own level, 12: all that the kernel looks at."""
TOO_DEEP = "/custom" + "/x" * 12
KNOWN_CGROUPS = sorted({each for path in [*policies.CGROUP_PATHS, TOO_DEEP] for each in lineage(path)})
PLACES = {
    policies.HOST: "host",
    policies.CONTAINER: "container",
    policies.BARE: "bare",
    policies.UNKNOWN: "unknown",
}

# None is what user space says of a name that it does not know; the kernel always knows one.
CONSUMERS = st.builds(
    replace,
    policies.local_consumers().filter(lambda consumer: consumer.exe is not None),
    cgroups=st.sampled_from([*policies.CGROUP_PATHS, *policies.CGROUP_PATHS, DEEPEST, TOO_DEEP]).map(
        lambda path: tuple(lineage(path))
    ),
)
ATTEMPTS = st.lists(st.tuples(CONSUMERS, policies.destinations(), st.booleans()), min_size=6, max_size=12)


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        for path in [*policies.PATHS, policies.DEEP_PATH]:
            # two names of one file are two executables
            made.add_program(path, link=path in ("/opt/app/bin/other", "/opt/other/bin/server"))
        yield made


class Translation:
    """Generated values, in terms of the host that is really there."""

    def __init__(self, world: World) -> None:
        self._world = world

    def path(self, cgroup: str) -> str:
        return f"{self._world.lab.scope}{cgroup}".rstrip("/")

    def document(self, document: dict[str, Any]) -> dict[str, Any]:
        """With cgroups below the world's own."""
        principals = {
            name: [
                selector
                | ({"cgroup": list(map(self.path, selector["cgroup"]))} if "cgroup" in selector else {})
                for selector in selectors
            ]
            for name, selectors in document["principals"].items()
        }
        return document | {"principals": principals}

    def facts(self, facts: HostFacts, hour: int) -> HostFacts:
        """The cgroups of these facts are there when this returns, and no others. It is now half past `hour`,
        counted from policies.BOOTED."""
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        existing = self._world.only_cgroups(
            map(self.path, facts.cgroups), known=map(self.path, KNOWN_CGROUPS)
        )
        return replace(
            facts,
            host_netns=self._world.host_netns,
            namespaces=tuple(
                Namespace(self.netns(each.cookie), each.inode, each.path, each.addresses)
                for each in facts.namespaces
            ),
            cgroups=existing,
            boot_offset_ns=facts.boot_offset_ns + hour * policies.HOUR_NS + HALF_AN_HOUR_NS - now_ns,
            hash_seed=self._world.seed,
        )

    def netns(self, number: int) -> int:
        return self._world.netns[PLACES[number]]

    def consumer(self, consumer: LocalConsumer) -> LocalConsumer:
        cgroups = tuple(lineage(self.path(consumer.cgroups[0] if consumer.cgroups else "/")))
        gids = consumer.gids or frozenset({2999})
        return replace(consumer, gids=gids, cgroups=cgroups, netns=self.netns(consumer.netns))


def expected(verdict: Verdict, consumer: LocalConsumer, destination: Destination, facts: HostFacts) -> Seen:
    if not verdict.target:
        return Seen(outbound=1)
    origin = Origin.LOOPBACK if consumer.netns == facts.host_netns else Origin.CONTAINER
    return Seen({Judged(verdict, origin, destination.protocol): 1})


def named(verdict: Verdict, ids: Ids) -> naive.NaiveVerdict:
    names = {number: name for name, number in ids.to_json()["grants"].items()}
    return naive.NaiveVerdict(
        verdict.decision, verdict.reason, ids.target_named(verdict.target), names.get(verdict.grant, "")
    )


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(policies.documents(), policies.host_facts(), st.integers(0, 6), ATTEMPTS)
def test_the_kernel_decides_what_the_tables_and_the_policy_say(
    world: World,
    document: dict[str, Any],
    drawn: HostFacts,
    hour: int,
    attempts: list[tuple[LocalConsumer, Destination, bool]],
) -> None:
    to = Translation(world)
    text = yaml.safe_dump(to.document(document), sort_keys=False)
    facts, ids = to.facts(drawn, hour), Ids()
    note(f"{text}\n{facts}")
    policy = parse_policy(text)
    tables = compile_policy(policy, facts, ids).tables
    world.install(tables)
    # these are made under the policy in force: it takes in those that it names
    world.only_cgroups(map(to.path, KNOWN_CGROUPS), known=())
    for generated, destination, mapped in attempts:
        consumer = to.consumer(generated)
        destination = replace(destination, netns=consumer.netns)
        seen = world.attempt(client_of(consumer, world.lab.scope), destination, mapped=mapped)
        now_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        verdict = evaluate(tables, consumer, destination, now_ns)
        note(f"{consumer}\n{destination}\n{verdict}")
        assert seen == expected(verdict, consumer, destination, facts)
        assert named(verdict, ids) == naive.judge(policy, facts, consumer, destination, now_ns)
