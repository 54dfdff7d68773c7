"""Consumers that have ended. The tables may no longer have their names, and some facts were never read."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterable
from dataclasses import replace
from itertools import product

from agent.model import Container, LocalConsumer, Network
from agent.policy.decision.consumer_sets import MAX_OWNERS, Who, who_is
from agent.policy.tables.compile import Compiled, member_for_cgroup, member_for_executable
from agent.policy.tables.shape import Dimension, Tables
from agent.policy.terms.cgroups import container_in
from agent.policy.terms.hashing import path_hash, string_hash
from agent.policy.terms.networks import NEAR, around

_NO_ID = (1 << 32) - 1
_STRANGER = ((_NO_ID, _NO_ID),)
"""A user namespace owner that no policy names."""
_ANYBODY = _STRANGER * (MAX_OWNERS + 1)
"""More owners of user namespaces than are walked, so that any user could be one."""


def tables_with(
    compiled: Compiled, tables: Tables, consumer: LocalConsumer, container: Container | None
) -> Tables:
    """The tables with this consumer's names as they were: of an executable that was removed from the tables,
    or of a container that is gone."""
    members, sets = dict[tuple[Dimension, int], int](), tables.sets
    exe = consumer.exe and (Dimension.EXE, path_hash(consumer.exe, tables.seed))
    if exe and compiled.index.globs and exe not in tables.members:
        members[exe], sets = len(sets), (*sets, member_for_executable(compiled, consumer.exe or ""))
    if container is not None and container.known and consumer.cgroups:
        top = container_in(consumer.cgroups[0])
        path = top.path if top else consumer.cgroups[0]
        clauses, flags = member_for_cgroup(compiled, path, container, tables.ground)
        members[Dimension.CGROUP_PATH, string_hash(path, tables.seed)] = len(sets) | flags
        sets = (*sets, clauses)
    if not members:
        return tables
    joined = ChainMap(members, tables.members)  # type: ignore[arg-type]  # nothing writes to it
    return replace(tables, members=joined, sets=sets)


def spoken_groups(tables: Tables) -> frozenset[int]:
    return frozenset(value for dimension, value in tables.members if dimension is Dimension.GID)


def who_could_be(tables: Tables, consumer: LocalConsumer, groups: frozenset[int]) -> Who:
    """For a consumer whose groups, root directory, pid namespace and user namespace were not read: the
    clauses that could hold, and those that hold in any case. `groups`: all groups that the policy names."""
    known = replace(consumer, exe_elsewhere=True)  # another root directory only removes clauses
    most = replace(consumer, gids=consumer.gids | groups)
    high, low = 0, -1
    # for subordinate ids, a user namespace's owner counts; outside of one, the user who has them
    for in_pid_namespace, (least, owners) in product((False, True), (((), ()), (_STRANGER, _ANYBODY))):
        low &= who_is(tables, replace(known, in_pid_namespace=in_pid_namespace, owners=least)).low
        high |= who_is(tables, replace(most, in_pid_namespace=in_pid_namespace, owners=owners)).high
    return Who(high, low)


def told_apart(sources: Iterable[Network]) -> frozenset[Network]:
    """Each /24 or /64 within which the policy treats addresses differently."""
    within = ((one, around(one.network_address, NEAR)) for one in sources)
    return frozenset(near for one, near in within if one.prefixlen > near.prefixlen)
