"""Generated policies and attempts, and what they are in terms of the host that is really there."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from typing import Any

import yaml
from hypothesis import strategies as st

from agent.model import (
    Destination,
    HostFacts,
    LocalConsumer,
    Namespace,
    Protocol,
    Reason,
    Verdict,
    to_address,
)
from agent.policy.decision.owners import lineage
from agent.policy.document.load import parse_policy
from agent.policy.tables.ids import Ids
from tests.fixtures import naive, policies
from tests.kernel.decision_world import World

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
    # from elsewhere, the host's loopback is not what a policy protects
    netns=st.sampled_from([policies.HOST] * 4 + [policies.UNKNOWN, policies.CONTAINER, policies.BARE]),
)
DESTINATIONS = [
    Destination(protocol, to_address(address), port, policies.HOST)
    for protocol in Protocol
    for address in policies.ADDRESSES
    for port in policies.CONNECTED
]


@dataclass(frozen=True, slots=True)
class Attempt:
    consumer: LocalConsumer
    destination: Destination
    mapped: bool
    """An IPv4 address through an AF_INET6 socket."""


@dataclass(frozen=True, slots=True)
class Case:
    document: dict[str, Any]
    states: list[Reason | None]
    facts: HostFacts
    attempts: list[Attempt]


@st.composite
def documents_about_who(draw: st.DrawFn, selectors: st.SearchStrategy[dict[str, Any]]) -> dict[str, Any]:
    """Everything is declared and licensed for good: only who connects decides."""
    principals = {
        name: draw(st.lists(selectors, min_size=1, max_size=3))
        for name in draw(policies.some(["billing", "ops", "ci"], most=3))
    }
    licensed = draw(policies.some([*principals, "anyone"]))
    excluded = draw(policies.some(list(principals), most=1)) if draw(st.booleans()) else []
    return {
        "version": 1,
        "services": {
            "db": {
                "product": "red",
                "at": "host",
                **draw(st.sampled_from([{}, {"on_unresolved": "allow"}, {"on_unresolved": "deny"}])),
                "ports": [
                    {"port": port, "class": port_class}
                    for port, port_class in zip(policies.PORTS, policies.CLASSES, strict=True)
                ],
            }
        },
        "principals": principals,
        "licenses": [
            {"id": "l", "product": "red", "entitlements": [{"id": "e", "principals": licensed}]},
        ],
        "restrictions": [{"exclude": name, "target": "db"} for name in excluded],
        "enforcement": {"default": draw(st.sampled_from(["observe", "enforce"]))},
    }


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Most attempts go to what the policy declares, so that there is something to decide."""
    by_name = st.fixed_dictionaries({"exe": policies.some(policies.PATTERNS)})
    about_who = documents_about_who(st.one_of(by_name, policies.selectors()))
    beside = policies.renewals(st.one_of(by_name, policies.selectors()))
    document = draw(st.one_of(policies.documents(), about_who, beside, beside, policies.exclusions()))
    facts = draw(policies.host_facts())
    policy = parse_policy(yaml.safe_dump(document))
    declared = [each for each in DESTINATIONS if naive.find_target(policy, facts, each)]
    to = st.sampled_from(declared) if declared else policies.destinations()
    attempts = st.builds(Attempt, CONSUMERS, st.one_of(to, to, to, policies.destinations()), st.booleans())
    return Case(document, draw(policies.states()), facts, draw(st.lists(attempts, min_size=4, max_size=10)))


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
        moved_ns = hour * policies.HOUR_NS + HALF_AN_HOUR_NS - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
        delegated = frozenset(map(self.path, facts.delegated))
        existing = self._world.only_cgroups(
            map(self.path, facts.cgroups), map(self.path, KNOWN_CGROUPS), delegated
        )
        return replace(
            facts,
            host_netns=self._world.host_netns,
            namespaces=tuple(
                Namespace(self.netns(each.cookie), each.inode, each.path, each.addresses)
                for each in facts.namespaces
            ),
            cgroups=existing,
            delegated=delegated,
            containers={self.path(path): container for path, container in facts.containers.items()},
            boot_offset_ns=facts.boot_offset_ns + moved_ns,
            wall_offset_ns=facts.wall_offset_ns + moved_ns,
            hash_seed=self._world.seed,
        )

    def netns(self, number: int) -> int:
        return self._world.netns[PLACES[number]]

    def consumer(self, consumer: LocalConsumer) -> LocalConsumer:
        cgroups = tuple(lineage(self.path(consumer.cgroups[0] if consumer.cgroups else "/")))
        gids = consumer.gids or frozenset({2999})
        return replace(consumer, gids=gids, cgroups=cgroups, netns=self.netns(consumer.netns))


def named(verdict: Verdict, ids: Ids) -> naive.NaiveVerdict:
    names = {number: name for name, number in ids.to_json()["grants"].items()}
    return naive.NaiveVerdict(
        verdict.decision, verdict.reason, ids.target_named(verdict.target), names.get(verdict.grant, "")
    )
