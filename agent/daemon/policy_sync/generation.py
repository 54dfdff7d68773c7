"""One generation of tables: a compiled policy, and the names that became known after it was compiled."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from agent.daemon.policy_sync.late_members import LateMembers, Layered
from agent.kernel.tables.names import Names
from agent.kernel.tables.policy_maps import Members
from agent.model import Container, HostFacts, Namespace
from agent.observe.containers import Containers
from agent.policy.tables.compile import Compiled, member_for_cgroup, member_for_executable, member_for_netns
from agent.policy.tables.host_warnings import host_warnings
from agent.policy.tables.shape import MEMBER_UNSURE, Dimension, Tables
from agent.policy.terms.cgroups import Ground
from agent.policy.terms.hashing import path_hash, string_hash
from agent.policy.values import Finding, Policy

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Ground(Ground):
    """The ground of cgroups, which changes as cgroups appear and disappear."""

    delegated: set[str]
    tops: set[str]


@dataclass(frozen=True, slots=True)
class Sources:
    """Where a generation looks up a container by its path and an executable by its hash."""

    containers: Containers | None = None
    names: Names | None = None

    def container_at(self, path: str) -> Container | None:
        return self.containers.at(path) if self.containers else None

    def forget_name(self, exe: int) -> None:
        """Forget the name of an executable, given by its hash. The kernel reports the name again when it next
        sees it."""
        if self.names:
            self.names.forget(exe)


@dataclass(slots=True, eq=False)
class Generation:
    """Additions go into the kernel's tables of this generation, whether or not these are in force yet. Not
    thread-safe."""

    policy: Policy | None
    compiled: Compiled
    facts: HostFacts
    members: Members
    sources: Sources
    awaited: dict[str, float] = field(default_factory=dict)
    """Containers that a service runs in and that have no process yet, with the time at which each
    appeared."""
    unnamed: dict[int, tuple[str, float]] = field(init=False)
    """Containers without a known name, while the policy has selectors by name. By cgroup id: the path, and
    when it appeared."""
    _late: LateMembers = field(default_factory=LateMembers)
    _ground: _Ground = field(init=False)
    _joined: Tables | None = None
    _of_host: tuple[HostFacts, tuple[Finding, ...]] = field(init=False)
    """Warnings about what this host lacks, and the host facts that they were made from."""

    def __post_init__(self) -> None:
        ground = self.compiled.tables.ground
        self._ground = _Ground(set(ground.delegated), set(ground.tops))
        self.unnamed = self._unnamed_at_first()
        self._of_host = self.facts, self.compiled.of_host

    def warnings(self) -> tuple[Finding, ...]:
        """Warnings, by the host facts of the last look: a unit that has started since then is no longer in
        them."""
        facts, of_host = self._of_host
        if self.policy is not None and facts is not self.facts:
            facts = self.facts
            of_host = tuple(host_warnings(self.policy, facts))
            self._of_host = facts, of_host
        return (*self.compiled.warnings, *of_host)

    def _unnamed_at_first(self) -> dict[int, tuple[str, float]]:
        if not self.compiled.index.containers:
            return {}
        now_s, cgroups = time.monotonic(), self.facts.cgroups
        return {
            cgroups[path]: (path, now_s)
            for path, container in self.facts.containers.items()
            if not container.known and path in cgroups
        }

    @property
    def _is_empty(self) -> bool:
        return not self.compiled.tables.targets

    @property
    def tables(self) -> Tables:
        """The compiled tables, with the names that became known after them."""
        compiled = self.compiled.tables
        if self._joined is None or len(self._joined.sets) != len(compiled.sets) + len(self._late.sets):
            sets = (*compiled.sets, *self._late.sets)
            members = Layered(self._late.members, compiled.members, len(sets))
            self._joined = replace(compiled, members=members, sets=sets, ground=self._ground)
        return self._joined

    def add_executable(self, path: str) -> None:
        # the kernel itself matches every selector except open globs
        if self._is_empty or not self.compiled.index.globs:
            return
        clauses = member_for_executable(self.compiled, path)
        log.debug("executable %r: clauses %#x", path, clauses)
        exe = path_hash(path, self.compiled.tables.seed)
        self._add(Dimension.EXE, exe, clauses)
        if clauses == self.compiled.index.silent[Dimension.EXE]:
            for old in self._late.stranger(exe):
                self._drop(Dimension.EXE, old)
                self.sources.forget_name(old)

    def add_cgroup(self, number: int, path: str, by_root: bool) -> None:
        """Add a new cgroup with the clauses it satisfies. `by_root`: only root could have made it."""
        if self._is_empty:
            return
        container = self.sources.container_at(path) if by_root else None
        self._note_ground(path, by_root, container)
        clauses, flags = member_for_cgroup(self.compiled, path, container, self._ground)
        if container or clauses:
            name = container.label if container else "no container"
            log.debug("cgroup %r: %r, clauses %#x, flags %d", path, name, clauses, flags)
        if by_root:
            self._add_place(path, clauses, flags, container)
        if flags or clauses != self.compiled.index.silent[Dimension.CGROUP]:
            self._add(Dimension.CGROUP, number, clauses, flags)
        else:
            # the kernel judged it as a possible container; a missing entry has the same meaning as an entry
            self._drop(Dimension.CGROUP, number)
        if flags & MEMBER_UNSURE:
            self.unnamed.setdefault(number, (path, time.monotonic()))
            log.debug("cgroup %r: may be a container, and has no name yet", path)
        else:
            self.unnamed.pop(number, None)
        self._look_above(path)
        if self._is_home(container) and path not in self.facts.container_netns:
            self.awaited.setdefault(path, time.monotonic())

    def _look_above(self, path: str) -> None:
        """Correct the cgroup above: a podman pod looks like a container until a container is made in it."""
        above = path.rpartition("/")[0]
        for number, (one, _) in list(self.unnamed.items()):
            if one == above:
                self.add_cgroup(number, above, by_root=True)

    def _note_ground(self, path: str, by_root: bool, container: Container | None) -> None:
        if not by_root:
            self._ground.delegated.add(path.rpartition("/")[0] or "/")
        if container:
            self._ground.tops.add(path)
        else:
            self._ground.tops.discard(path)

    def _add_place(self, path: str, clauses: int, flags: int, container: Container | None) -> None:
        """Store how the kernel judges the next cgroup made at this path: as a container, or as something else
        that replaces a container."""
        place = (Dimension.CGROUP_PATH, string_hash(path, self.compiled.tables.seed))
        if container or place in self.compiled.tables.members:
            self._add(*place, clauses, flags)
        else:
            self._drop(*place)

    def _is_home(self, container: Container | None) -> bool:
        """True if a service runs in this container."""
        if container is None or not container.known or self.policy is None:
            return False
        homes = (each for service in self.policy.services.values() for each in service.at_containers)
        return any(selector.takes(container) for selector in homes)

    def awaits_home(self, newer_than_s: float) -> bool:
        now_s = time.monotonic()
        for path, since_s in list(self.awaited.items()):
            if path in self.facts.container_netns or now_s - since_s > newer_than_s:
                self.awaited.pop(path)
        return bool(self.awaited)

    def drop_cgroups(self, numbers: Iterable[int], paths: Iterable[str]) -> None:
        for number in numbers:
            self.unnamed.pop(number, None)
            self._drop(Dimension.CGROUP, number)
        for path in paths:
            self._ground.delegated.discard(path)
            self._ground.tops.discard(path)
            place = (Dimension.CGROUP_PATH, string_hash(path, self.compiled.tables.seed))
            # a cgroup that the policy names may be made again while no daemon runs
            if place in self._late.members and place not in self.compiled.tables.members:
                self._drop(*place)

    def add_namespace(self, namespace: Namespace) -> None:
        if not self._is_empty:
            clauses = member_for_netns(self.compiled, namespace.addresses)
            self._add(Dimension.NETNS, namespace.cookie, clauses)

    def follow_namespaces(self, facts: HostFacts) -> None:
        """Add namespaces that are new or have other addresses. One that is gone may stay for a while, because
        cookies are never reused."""
        known = {one.cookie: one.addresses for one in self.facts.namespaces}
        for namespace in facts.namespaces:
            if known.get(namespace.cookie) != namespace.addresses:
                self.add_namespace(namespace)
        for cookie in self._late.namespaces(frozenset(one.cookie for one in facts.namespaces)):
            self._drop(Dimension.NETNS, cookie)
        # keep the compiled offsets: a slewed clock drifts by less than any threshold between two looks
        self.facts = replace(
            facts, boot_offset_ns=self.facts.boot_offset_ns, wall_offset_ns=self.facts.wall_offset_ns
        )

    def _drop(self, dimension: Dimension, value: int) -> None:
        known = self._late.drop(dimension, value)
        if dimension is Dimension.CGROUP or known:  # the kernel itself adds cgroups
            self.members.remove(dimension, value)

    def _add(self, dimension: Dimension, value: int, clauses: int, flags: int = 0) -> None:
        set_id = self._late.add(dimension, value, clauses, len(self.compiled.tables.sets), flags)
        try:
            self.members.add(dimension, value, clauses, set_id, flags)
        except OSError as error:
            log.warning("%s: no room for another name: %s", dimension.name.lower(), error.strerror)
