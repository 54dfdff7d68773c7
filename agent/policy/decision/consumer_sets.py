"""Which clauses hold for a consumer, step by step, as bpf/lib/clauses.h finds them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from agent.model import (
    Consumer,
    LocalConsumer,
    RemoteConsumer,
)
from agent.policy.tables.shape import (
    MAX_CGROUPS,
    MAX_PATH_COMPONENTS,
    MAX_SHAPES,
    MEMBER_CONTAINER,
    MEMBER_FLAGS,
    MEMBER_UNSURE,
    MEMBER_UNSURE_UNIT,
    Dimension,
    SetId,
    SubordinateKey,
    Tables,
    Uncertain,
)
from agent.policy.terms.cgroups import cgroup_name, template_of
from agent.policy.terms.hashing import (
    UNTRUSTED_NAME,
    glob_of,
    path_hash,
    shape_hash,
    string_hash,
    template_hash,
)
from agent.policy.terms.networks import prefixes_of
from agent.policy.terms.paths import Shape, components, directory_of
from agent.policy.terms.subordinates import blocks_with

MAX_OWNERS = 6
"""How many levels of user namespaces the kernel walks (bpf/abi.h). Deeper, any user could be the owner."""

NO_EXECUTABLE = ""
"""The exe of a LocalConsumer without an executable."""


@dataclass(frozen=True, slots=True)
class Step:
    """The clauses that one dimension leaves possible; `uncertain` is its `Uncertain` flag, or 0."""

    dimension: Dimension
    set: int
    uncertain: int = 0
    confines: bool = False
    """True: this step removes only clauses about processes outside containers."""
    stood_for: int = 0
    """Clauses in the set only because another user stands for the consumer: see `_stood_for`."""


@dataclass(frozen=True, slots=True)
class Who:
    """Clauses that could hold for a consumer, and those that certainly hold."""

    high: int
    low: int


def who_is(tables: Tables, consumer: Consumer) -> Who:
    if isinstance(consumer, RemoteConsumer):
        found = source_set(tables, consumer)
        return Who(found, found)
    high = tables.sets[SetId.ALL]
    uncertain = 0
    for step in local_steps(tables, consumer):
        high &= step.set
        uncertain |= step.uncertain
    return Who(high, high & tables.sets[SetId.CERTAIN + uncertain])


def source_set(tables: Tables, consumer: RemoteConsumer) -> int:
    for network in prefixes_of(consumer.address):
        if network in tables.sources:
            return tables.sets[tables.sources[network]]
    return tables.sets[SetId.MISS_SOURCE]


def local_steps(tables: Tables, consumer: LocalConsumer) -> Iterator[Step]:
    """The sets of a local consumer, dimension by dimension, in the order of decide.h."""
    yield _exe(tables, consumer.exe)
    if consumer.exe and consumer.exe_elsewhere and components(consumer.exe) <= MAX_PATH_COMPONENTS:
        yield Step(Dimension.EXE, tables.sets[SetId.ELSEWHERE], confines=True)
    found = _member(tables, Dimension.UID, consumer.uid)
    found = _missed(tables, Dimension.UID) if found is None else found
    yield _widened(Dimension.UID, found, _stood_for(tables, Dimension.UID, consumer))
    found = _any(tables, Dimension.GID, Dimension.GID, consumer.gids)
    yield _widened(Dimension.GID, found, _stood_for(tables, Dimension.GID, consumer))
    yield from _cgroup(tables, consumer)
    found = _member(tables, Dimension.NETNS, consumer.netns)
    if found is None:
        yield Step(Dimension.NETNS, _missed(tables, Dimension.NETNS), Uncertain.NETNS)
    else:
        yield Step(Dimension.NETNS, found)


def _widened(dimension: Dimension, found: int, more: int) -> Step:
    return Step(dimension, found | more, stood_for=more & ~found)


def in_container(tables: Tables, consumer: LocalConsumer) -> bool:
    """True if the consumer is certainly in a container. A root directory other than the host's is not
    enough."""
    return any(step.confines and step.dimension is Dimension.CGROUP for step in local_steps(tables, consumer))


def _cgroup(tables: Tables, consumer: LocalConsumer) -> Iterator[Step]:
    """The first MAX_CGROUPS ancestors count, with their flags."""
    found, flags = _missed(tables, Dimension.CGROUP), 0
    for path in consumer.cgroups[-MAX_CGROUPS:]:  # deepest first
        member = cgroup_member(tables, path)
        if member is not None:
            found |= tables.sets[member & ~MEMBER_FLAGS]
            flags |= member & MEMBER_FLAGS
    uncertain = Uncertain.CONTAINER if flags & MEMBER_UNSURE else 0
    if flags & MEMBER_UNSURE_UNIT:
        uncertain |= Uncertain.CGROUP
    if flags & MEMBER_CONTAINER or consumer.in_pid_namespace:
        found |= tables.sets[SetId.ANY_CONTAINER]
        yield Step(Dimension.CGROUP, tables.sets[SetId.IN_CONTAINER], confines=True)
    elif flags & MEMBER_UNSURE:
        uncertain |= Uncertain.ANY_CONTAINER
    yield Step(Dimension.CGROUP, found, uncertain)


def _exe(tables: Tables, path: str | None) -> Step:
    if path is None:
        return Step(Dimension.EXE, tables.sets[SetId.ALL], Uncertain.PATH)
    key = 0 if path == NO_EXECUTABLE else path_hash(path, tables.seed)
    if components(path) > MAX_PATH_COMPONENTS:
        key = UNTRUSTED_NAME
    found = _member(tables, Dimension.EXE, key)
    if found is not None:
        return Step(Dimension.EXE, found)
    found = _member(tables, Dimension.EXE_DIR, path_hash(directory_of(path), tables.seed))
    found = _missed(tables, Dimension.EXE) if found is None else found
    return Step(Dimension.EXE, found | _starred(tables, path), Uncertain.EXE)


def _starred(tables: Tables, path: str) -> int:
    """The clauses that globs with one star add, by their shapes."""
    found = 0
    for number in range(MAX_SHAPES):
        word = tables.members.get((Dimension.EXE_SHAPE, number))
        if word is None:
            break
        glob = glob_of(path, Shape(word & 0xFF, word >> 8 & 0xFF, word >> 16))
        found |= (_member(tables, Dimension.EXE_GLOB, shape_hash(glob, tables.seed)) or 0) if glob else 0
    return found


def cgroup_member(tables: Tables, path: str) -> int | None:
    """The value of members[CGROUP, id] for a cgroup at this path, after user space has checked it: the number
    of a set with MEMBER_FLAGS. None: the cgroup has no entry."""
    members, place = tables.members, string_hash(path, tables.seed)
    if not tables.ground.is_hosts(path) and path not in tables.ground.tops:
        return members.get((Dimension.CGROUP_GIVEN, place))
    if (found := members.get((Dimension.CGROUP_PATH, place))) is not None:
        return found
    unit = tables.ground.unit_at(path)
    if not unit:
        return None
    found = members.get((Dimension.UNIT, string_hash(cgroup_name(unit), tables.seed)))
    template = template_of(unit)
    if found is None and template:
        return members.get((Dimension.UNIT_TEMPLATE, template_hash(cgroup_name(template), tables.seed)))
    return found


def _any(tables: Tables, dimension: Dimension, key: Dimension, values: Iterable[int]) -> int:
    found = _missed(tables, dimension)
    for value in values:
        found |= _member(tables, key, value) or 0
    return found


def _stood_for(tables: Tables, dimension: Dimension, consumer: LocalConsumer) -> int:
    """Clauses that hold, in the dimension UID or GID, because of other users: the owners of the user
    namespaces around the consumer, and the user to whom the outermost owner's uid is subordinate. Outside
    user namespaces, the consumer's own uid takes the place of that owner's."""
    found = tables.sets[SetId.OWNED] if len(consumer.owners) > MAX_OWNERS else 0
    uid = consumer.uid
    for uid, gid in consumer.owners[:MAX_OWNERS]:
        if dimension is Dimension.UID:
            found |= _member(tables, Dimension.OWNER_UID, uid) or 0
        else:
            found |= _member(tables, Dimension.OWNER_GID, gid) or 0
            found |= _member(tables, Dimension.OWNER_MEMBER, uid) or 0
    return found | _subordinate(tables, dimension, uid)


def _subordinate(tables: Tables, dimension: Dimension, uid: int) -> int:
    keys = (SubordinateKey(dimension, *block) for block in blocks_with(uid)) if tables.subordinates else ()
    return next((tables.sets[tables.subordinates[key]] for key in keys if key in tables.subordinates), 0)


def _member(tables: Tables, dimension: Dimension, value: int) -> int | None:
    number = tables.members.get((dimension, value))
    return None if number is None else tables.sets[number & ~MEMBER_FLAGS]


def _missed(tables: Tables, dimension: Dimension) -> int:
    return tables.sets[SetId.MISS + dimension]
