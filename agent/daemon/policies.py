"""The policy in force: files → Policy → Tables → kernel, all of it or nothing."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import ChainMap
from collections.abc import Callable, Iterable
from dataclasses import replace

from agent.config import Settings
from agent.daemon.state import State
from agent.errors import KernelError, LicetError, PolicyError, PolicyErrors
from agent.kernel.maps import PolicyMaps
from agent.model import Container, HostFacts, Namespace
from agent.policy.compile import (
    Compiled,
    compile_policy,
    member_for_cgroup,
    member_for_executable,
    member_for_netns,
)
from agent.policy.document import load_policy
from agent.policy.hashing import path_hash, string_hash
from agent.policy.ids import Ids
from agent.policy.tables import Dimension, Tables
from agent.policy.values import Policy

log = logging.getLogger(__name__)


class PolicyKeeper:
    """Owns what is judged by. `gather` reads the host as far as a policy needs it.

    Names arrive from the kernel in the loop while another thread compiles: the lock holds the tables and
    the names added to them together."""

    def __init__(
        self,
        settings: Settings,
        maps: PolicyMaps,
        state: State,
        gather: Callable[[Policy | None], HostFacts],
        container_at: Callable[[str], Container | None] = lambda path: None,
    ) -> None:
        self._settings = settings
        self._maps = maps
        self._state = state
        self._gather = gather
        self._container_at = container_at
        self.unnamed: dict[int, tuple[str, float]] = {}
        """Containers whose name is not known, though the policy speaks of names: by cgroup id, the path and
        when it appeared."""
        self._awaited: dict[str, float] = {}
        """Containers that a service is at and that have no process yet: when they appeared."""
        self.ids: Ids = state.ids()
        self.policy: Policy | None = None
        self.compiled: Compiled | None = None
        self.facts: HostFacts | None = None
        self.generation = 0
        self.loaded_unix_s = 0.0
        self.failures = 0
        self.last_error = ""
        self._late_sets: dict[int, int] = {}
        self._late_members: dict[tuple[Dimension, int], int] = {}
        self._lock = threading.RLock()
        self._since_gathering: list[Callable[[], None]] = []
        """Names that came after the facts were gathered, to be added to what is compiled from those."""

    @property
    def tables(self) -> Tables | None:
        """What the kernel judges by now: the compiled tables, and the names that came after them."""
        if self.compiled is None:
            return None
        compiled = self.compiled.tables
        return replace(
            compiled,
            members=ChainMap(self._late_members, dict(compiled.members)),
            sets=(*compiled.sets, *self._late_sets),
        )

    def reload(self) -> None:
        """Read the files and put them in force.

        Raises PolicyErrors or KernelError; what was in force then stays in force."""
        try:
            policy = load_policy(self._settings.paths.policy, self._settings.paths.policy_dir)
            if policy is None and self.policy is not None:
                raise PolicyErrors([self._vanished()])
            self._install(policy)
        except LicetError as error:
            self.failures += 1
            self.last_error = str(error)
            raise
        self.last_error = ""

    def note_in_force(self) -> None:
        """All that follows from a policy, gates included, has been done."""
        self.loaded_unix_s = time.time()

    def _vanished(self) -> PolicyError:
        return PolicyError(
            path=str(self._settings.paths.policy),
            line=None,
            reason=f"the policy is gone, and nothing is in {self._settings.paths.policy_dir}",
            remedy="the one loaded before stays in force; to run without a policy, write `version: 1`",
        )

    def follow_host(self) -> bool:
        """Compile again where the host has changed in a way the policy speaks of; True if it had."""
        facts = self._facts_now(self.policy)
        if self.facts is not None and _same(facts, self.facts):
            self._follow_namespaces(facts)
            return False
        self._install(self.policy, facts)
        return True

    def _install(self, policy: Policy | None, facts: HostFacts | None = None) -> None:
        facts = facts or self._facts_now(policy)
        compiled = compile_policy(policy, facts, self.ids)
        self._state.store_ids(self.ids)  # before the kernel counts by them
        with self._lock:
            try:
                self.generation = self._maps.install(compiled.tables)
            except OSError as error:
                raise KernelError(f"the policy does not fit into the kernel's tables: {error}") from error
            self.policy, self.compiled, self.facts = policy, compiled, facts
            self._late_sets, self._late_members = {}, {}
            self.unnamed = self._unnamed_in(facts)
            for add in self._since_gathering:
                add()
        for warning in compiled.warnings:
            log.warning("%s", warning)

    def _facts_now(self, policy: Policy | None) -> HostFacts:
        with self._lock:
            self._since_gathering = []
        return self._gather(policy)

    def executable_known(self, path: str) -> None:
        """A path the kernel saw for the first time: does a glob of the policy take it?"""
        self._add_late(lambda: self._add_executable(path))

    def _add_executable(self, path: str) -> None:
        if self.compiled and self.compiled.tables.targets:
            clauses = member_for_executable(self.compiled, path)
            seed = self.compiled.tables.seed
            self._add(Dimension.EXE, path_hash(path, seed), clauses)

    def cgroup_made(self, number: int, path: str) -> None:
        """A cgroup the policy speaks of is a member, and so is one made again at its path, also while no
        daemon runs: the kernel looks the path up."""
        self._add_late(lambda: self._add_cgroup(number, path))

    def _add_cgroup(self, number: int, path: str) -> None:
        if not self.compiled or not self.compiled.tables.targets:
            return
        index, place = self.compiled.index, string_hash(path, self.compiled.tables.seed)
        container = self._container_at(path) if index.containers or self._has_homes() else None
        clauses, flags = member_for_cgroup(self.compiled, path, container)
        if clauses != index.silent[Dimension.CGROUP]:
            self._add(Dimension.CGROUP, number, clauses, flags)
            self._add(Dimension.CGROUP_PATH, place, clauses, flags)
        elif index.containers:
            # the kernel took it for what may be a container; a miss says the same as an entry would
            self._drop(Dimension.CGROUP, number)
            if (Dimension.CGROUP_PATH, place) in self.compiled.tables.members:
                self._add(Dimension.CGROUP_PATH, place, clauses)  # another container was there before
            else:
                self._drop(Dimension.CGROUP_PATH, place)
        if flags:
            self.unnamed.setdefault(number, (path, time.monotonic()))
        else:
            self.unnamed.pop(number, None)
        if self._is_home(container) and path not in (self.facts.container_netns if self.facts else {}):
            self._awaited.setdefault(path, time.monotonic())

    def _unnamed_in(self, facts: HostFacts) -> dict[int, tuple[str, float]]:
        if self.compiled is None or not self.compiled.index.containers:
            return {}
        now_s = time.monotonic()
        return {
            facts.cgroups[path]: (path, now_s)
            for path, container in facts.containers.items()
            if not container.known and path in facts.cgroups
        }

    def name_containers(self, newer_than_s: float = math.inf) -> None:
        """Look again for names that were not there, of containers that appeared so many seconds ago."""
        now_s = time.monotonic()
        for number, (path, since_s) in list(self.unnamed.items()):
            if now_s - since_s < newer_than_s:
                with self._lock:
                    self._add_cgroup(number, path)

    def awaits_home(self, newer_than_s: float) -> bool:
        """Has a container appeared that a service is at, whose network namespace is not known yet?"""
        now_s, homes = time.monotonic(), self.facts.container_netns if self.facts else {}
        with self._lock:
            for path, since_s in list(self._awaited.items()):
                if path in homes or now_s - since_s > newer_than_s:
                    self._awaited.pop(path)
            return bool(self._awaited)

    def cgroups_gone(self, numbers: Iterable[int], paths: Iterable[str]) -> None:
        """Cgroups that are there no more. Without this, a host that starts a container each second would fill
        the table in three days."""
        with self._lock:
            for number in numbers:
                self.unnamed.pop(number, None)
                self._drop(Dimension.CGROUP, number)
            if self.compiled is None or not self.compiled.index.containers:
                return
            for path in paths:
                place = string_hash(path, self.compiled.tables.seed)
                if (Dimension.CGROUP_PATH, place) in self._late_members and not self._is_named(path):
                    self._drop(Dimension.CGROUP_PATH, place)

    def _has_homes(self) -> bool:
        return self.policy is not None and any(s.at_containers for s in self.policy.services.values())

    def _is_named(self, path: str) -> bool:
        """Does the policy itself name this cgroup, or its unit? It may come back while no daemon runs."""
        if self.compiled is None:
            return False
        return self.compiled.index.cgroup(path) != self.compiled.index.silent[Dimension.CGROUP]

    def _is_home(self, container: Container | None) -> bool:
        """Is a service at this container?"""
        if container is None or not container.known or self.policy is None:
            return False
        homes = (each for service in self.policy.services.values() for each in service.at_containers)
        return any(selector.takes(container) for selector in homes)

    def _add_late(self, add: Callable[[], None]) -> None:
        with self._lock:
            self._since_gathering.append(add)
            add()

    def _follow_namespaces(self, facts: HostFacts) -> None:
        """Those that are new, or have other addresses. One that is gone may stay: cookies do not repeat."""
        known = {one.cookie: one.addresses for one in self.facts.namespaces} if self.facts else {}
        for namespace in facts.namespaces:
            if known.get(namespace.cookie) != namespace.addresses:
                with self._lock:
                    self._namespace_found(namespace)
        # the offset stays the compiled one: a clock that is slewed drifts by less than any threshold a look
        self.facts = replace(facts, boot_offset_ns=self.facts.boot_offset_ns) if self.facts else facts

    def _namespace_found(self, namespace: Namespace) -> None:
        if self.compiled and self.compiled.tables.targets:
            clauses = member_for_netns(self.compiled, namespace.addresses)
            self._add(Dimension.NETNS, namespace.cookie, clauses)

    def _drop(self, dimension: Dimension, value: int) -> None:
        known = self._late_members.pop((dimension, value), None)
        if dimension is Dimension.CGROUP or known is not None:
            self._maps.remove_member(dimension, value)

    def _add(self, dimension: Dimension, value: int, clauses: int, flags: int = 0) -> None:
        if self.compiled is None:
            return
        first_free = len(self.compiled.tables.sets)
        set_id = self._late_sets.setdefault(clauses, first_free + len(self._late_sets))
        self._late_members[(dimension, value)] = set_id | flags
        try:
            self._maps.add_member(dimension, value, clauses, set_id, flags)
        except OSError as error:
            log.warning("%s: no room for another name: %s", dimension.name.lower(), error.strerror)


def _same(a: HostFacts, b: HostFacts) -> bool:
    """What is added one by one as it appears (executables, cgroups, namespaces) is no reason to compile."""
    drift_ns = abs(a.boot_offset_ns - b.boot_offset_ns)
    return drift_ns < 500_000_000 and (
        a.host_netns,
        a.addresses,
        a.users,
        a.groups,
        a.realpaths,
        a.clock_synced,
        _homes(a),
    ) == (b.host_netns, b.addresses, b.users, b.groups, b.realpaths, b.clock_synced, _homes(b))


def _homes(facts: HostFacts) -> object:
    """Where services that are at a container are."""
    addresses = {one.cookie: one.addresses for one in facts.namespaces}
    return {path: (netns, addresses.get(netns, ())) for path, netns in facts.container_netns.items()}
