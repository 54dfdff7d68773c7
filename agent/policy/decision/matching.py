"""Finds which selectors hold for a consumer, and on which key the others fail. Reads the tables one clause at
a time."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from itertools import islice

from agent.model import Consumer, LocalConsumer, RemoteConsumer, show_address, show_network
from agent.policy.decision.consumer_sets import Step, in_container, local_steps, source_set
from agent.policy.tables.clauses import Clause
from agent.policy.tables.compile import Compiled
from agent.policy.tables.shape import Dimension, SetId, Uncertain
from agent.policy.terms.networks import holds
from agent.policy.values import Place, Selector

_SHOWN = 4
"""How many values of a key a sentence lists."""


class Holds(Enum):
    YES = "yes"
    MAYBE = "maybe"
    """Too little is known of the consumer to tell."""
    NO = "no"


@dataclass(frozen=True, slots=True)
class Match:
    """The result of one selector for one consumer. Selectors with nothing but CIDRs are judged together as
    one."""

    principal: str
    place: Place | None
    """None: the built-in `anyone`."""
    holds: Holds
    why: str


def match_principal(
    compiled: Compiled, principal: str, consumer: Consumer, *, excluding: bool = False
) -> list[Match]:
    """Results in the order of the policy. excluding: with the wider meaning that selectors have in
    exclusions."""
    index = compiled.index
    bits = (index.excluded if excluding else index.principals).get(principal, 0)
    return [
        _match(compiled, number, clause, consumer)
        for number, clause in enumerate(compiled.clauses)
        if bits >> number & 1
    ]


def _match(compiled: Compiled, number: int, clause: Clause, consumer: Consumer) -> Match:
    place = clause.selectors[0].place if clause.selectors else None
    if not clause.selectors:
        return Match(clause.principal, place, Holds.YES, "every consumer is included")
    if isinstance(consumer, RemoteConsumer):
        return _match_source(compiled, number, clause, consumer)
    doubts, is_stood_for = [], False
    for step in local_steps(compiled.tables, consumer):
        if not step.set >> number & 1:
            return Match(clause.principal, place, Holds.NO, _failed(compiled, clause, step, consumer))
        if step.uncertain and not compiled.tables.sets[SetId.CERTAIN + step.uncertain] >> number & 1:
            doubts.append(_doubt(clause, step, consumer))
        is_stood_for |= bool(step.stood_for >> number & 1)
    if doubts:
        return Match(clause.principal, place, Holds.MAYBE, "; ".join(doubts))
    why = _spoken(clause) + (f": {_stands_for(consumer)}" if is_stood_for else "")
    return Match(clause.principal, place, Holds.YES, why)


def _match_source(compiled: Compiled, number: int, clause: Clause, consumer: RemoteConsumer) -> Match:
    place = clause.selectors[0].place
    address = show_address(consumer.address)
    if clause.needs_process:
        why = f"needs process data, but remote consumer {address} is known only by its address"
        return Match(clause.principal, place, Holds.NO, why)
    if not source_set(compiled.tables, consumer) >> number & 1:
        return Match(clause.principal, place, Holds.NO, f"{address} is not in {_networks(clause)}")
    for selector in clause.selectors:
        for network in selector.networks:
            if holds((network,), consumer.address):
                why = f"{address} is in {show_network(network)}"
                return Match(clause.principal, selector.place, Holds.YES, why)
    return Match(clause.principal, place, Holds.YES, f"{address} is in {_networks(clause)}")


def _failed(compiled: Compiled, clause: Clause, step: Step, consumer: LocalConsumer) -> str:
    selector = clause.selectors[0]
    if step.confines:
        return _confined(compiled, step, consumer)
    if step.dimension is Dimension.EXE:
        return f"exe {_exe(consumer)} is not {_listed(clause.exe or ())}"
    if step.dimension is Dimension.UID:
        return f"uid {consumer.uid} is not {_named('user', selector.users, 'uid', selector.uids)}"
    if step.dimension is Dimension.GID:
        held = _listed(str(gid) for gid in sorted(consumer.gids))
        return f"gid {held} is not {_named('group', selector.groups, 'gid', selector.gids)}"
    if step.dimension is Dimension.CGROUP:
        if selector.containers:
            return f"cgroup {_cgroup(consumer)} is not in a container with {_containers(selector)}"
        return f"cgroup {_cgroup(consumer)} is not in {_listed((*selector.units, *selector.cgroups))}"
    return f"none of its addresses is in {_networks(clause)} (addresses of the host itself do not count)"


def _confined(compiled: Compiled, step: Step, consumer: LocalConsumer) -> str:
    """Why a clause about processes outside containers does not hold."""
    if step.dimension is Dimension.EXE and not in_container(compiled.tables, consumer):
        return (
            f"exe matches only this host's files, and {_exe(consumer)} is below another root directory: "
            "select it by unit or user"
        )
    where = f"cgroup {_cgroup(consumer)}" if consumer.cgroups else "it"
    return (
        f"exe, user and group match only processes outside containers, and {where} is in one: "
        'add container: "*" to include it'
    )


def _doubt(clause: Clause, step: Step, consumer: LocalConsumer) -> str:
    if step.dimension is Dimension.EXE:
        return f"not known yet whether exe {_exe(consumer)} is {_listed(clause.exe or ())}"
    if step.uncertain & Uncertain.CONTAINER:
        return f"the name of the container in cgroup {_cgroup(consumer)} is not known"
    if step.dimension is Dimension.CGROUP:
        return f"not known yet whether cgroup {_cgroup(consumer)} is in a container"
    return f"network namespace {consumer.netns} is not known yet"


def _spoken(clause: Clause) -> str:
    selector = clause.selectors[0]
    parts = (
        ("exe", clause.exe or ()),
        ("user", selector.users),
        ("uid", tuple(map(str, selector.uids))),
        ("group", selector.groups),
        ("gid", tuple(map(str, selector.gids))),
        ("unit", selector.units),
        ("cgroup", selector.cgroups),
        ("container", tuple(map(str, selector.containers))),
        ("cidr", tuple(map(show_network, islice(clause.networks or (), _SHOWN + 1)))),
    )
    return ", ".join(f"{key} {_listed(values)}" for key, values in parts if values)


def _stands_for(consumer: LocalConsumer) -> str:
    """Why an exclusion holds for a consumer that it does not name."""
    if consumer.owners:
        return "it is in a user namespace that they own"
    return f"uid {consumer.uid} is a subordinate id of theirs"


def _named(name: str, names: Iterable[str], number: str, numbers: Iterable[int]) -> str:
    return _listed([*(f"{name} {each}" for each in names), *(f"{number} {each}" for each in numbers)])


def _networks(clause: Clause) -> str:
    return _listed(show_network(network) for network in clause.networks or ())


def _containers(selector: Selector) -> str:
    return _listed(map(str, selector.containers))


def _cgroup(consumer: LocalConsumer) -> str:
    return consumer.cgroups[0] if consumer.cgroups else "/"


def _listed(values: Iterable[str]) -> str:
    """At most LISTED values: an address list may have 100,000."""
    shown = list(islice(values, _SHOWN + 1))
    if not shown:
        return "none"
    return " or ".join(shown[:_SHOWN]) + (" or …" if len(shown) > _SHOWN else "")


def _exe(consumer: LocalConsumer) -> str:
    return "that is not known yet" if consumer.exe is None else consumer.exe or "(none)"
