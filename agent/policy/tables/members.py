"""The entries of the kernel's table `members`: the clauses that each fact about a consumer satisfies."""

from __future__ import annotations

from collections.abc import Iterator

from agent.model import Container, HostFacts
from agent.policy.tables.index import Index
from agent.policy.tables.shape import MAX_PATH_COMPONENTS, MEMBER_CONTAINER, MEMBER_UNSURE, Dimension, SetId
from agent.policy.terms.cgroups import cgroup_name, container_in, ground_of
from agent.policy.terms.hashing import path_hash, shape_hash, string_hash, template_hash
from agent.policy.terms.paths import components

NO_EXECUTABLE = 0
UNTRUSTED_EXECUTABLE = 1
"""Values of members[EXE, …] that are not hashes; see `shape`."""


def other_members(index: Index, facts: HostFacts) -> Iterator[tuple[tuple[Dimension, int], int]]:
    """Members of every dimension but CGROUP: (dimension, value) and the clauses as a bit set."""
    seed = facts.hash_seed
    for none in (NO_EXECUTABLE, UNTRUSTED_EXECUTABLE):
        yield (Dimension.EXE, none), index.silent[Dimension.EXE]
    # If no clause needs a name, the sets for a miss equal those for any name.
    names = set(index.literals) | (set(facts.executables) if index.globs else set())
    for path in sorted(names):
        if components(path) <= MAX_PATH_COMPONENTS:
            yield (Dimension.EXE, path_hash(path, seed)), index.executable(path)
    for glob, bits in _globs(index, seed).items():
        yield (Dimension.EXE_GLOB, glob), bits
    for path in index.directories:
        yield (Dimension.EXE_DIR, path_hash(path, seed)), index.directory(path)
    for dimension, values in ((Dimension.UID, index.uids), (Dimension.GID, index.gids)):
        for value, bits in sorted(values.items()):
            yield (dimension, value), bits | index.silent[dimension]
    owners = {
        Dimension.OWNER_UID: index.owner_uids,
        Dimension.OWNER_GID: index.owner_gids,
        Dimension.OWNER_MEMBER: index.owner_members,
    }
    for dimension, values in owners.items():
        for value, bits in sorted(values.items()):
            yield (dimension, value), bits
    yield (Dimension.NETNS, facts.host_netns), index.silent[Dimension.NETNS]
    for namespace in facts.namespaces:
        if namespace.cookie != facts.host_netns:
            yield (Dimension.NETNS, namespace.cookie), index.netns(namespace.addresses)


def _globs(index: Index, seed: int) -> dict[int, int]:
    globs: dict[int, int] = {}
    for glob, bits in index.starred.items():
        value = shape_hash(glob, seed)
        globs[value] = globs.get(value, 0) | bits
    return globs


def cgroup_members(index: Index, facts: HostFacts) -> Iterator[tuple[tuple[Dimension, int], int, int]]:
    """Members of the cgroup dimension: their sets and MEMBER_FLAGS."""
    seed, ground = facts.hash_seed, ground_of(facts)
    named = {name for name in index.cgroups if name.startswith("/")}
    for unit in sorted(index.cgroups.keys() - named):
        container = _container_at(f"/{cgroup_name(unit)}")
        bits, flags = index.unit(unit, container), member_flags(index, container)
        if "*" in unit:
            yield (Dimension.UNIT_TEMPLATE, template_hash(cgroup_name(unit), seed)), bits, flags
        else:
            yield (Dimension.UNIT, string_hash(cgroup_name(unit), seed)), bits, flags
    for path in sorted(named):
        yield (Dimension.CGROUP_GIVEN, string_hash(path, seed)), index.given_cgroup(path), 0
    for path in sorted(named | facts.containers.keys()):
        container = facts.containers.get(path) or _container_at(path)
        bits, flags = index.cgroup(path, container), member_flags(index, container)
        yield (Dimension.CGROUP_PATH, string_hash(path, seed)), bits, flags
    for path, number in facts.cgroups.items():
        container = facts.containers.get(path)
        bits, flags = index.cgroup(path, container, ground), member_flags(index, container)
        if flags or bits != index.silent[Dimension.CGROUP]:
            yield (Dimension.CGROUP, number), bits, flags
    yield (Dimension.CGROUP_NEW, 0), index.new_cgroup(), MEMBER_UNSURE


def _container_at(path: str) -> Container | None:
    """The container that a path shows by itself to be a container's own cgroup."""
    top = container_in(path)
    if top is None or top.path != path:
        return None
    return Container(top.id, top.runtime, top.name, known=bool(top.name))


def member_flags(index: Index, container: Container | None) -> int:
    if container is None:
        return 0
    return MEMBER_CONTAINER | (MEMBER_UNSURE if index.unsure(container) else 0)


def host_root(facts: HostFacts) -> dict[tuple[Dimension, int], int]:
    """Members by which the kernel tells cgroups of this host from those outside it."""
    root = facts.cgroups.get("/")
    return {(Dimension.CGROUP_HOST, number): SetId.EMPTY for number in (0, root)} if root else {}
