"""The policy in force: files → Policy → Tables → kernel, all of it or nothing."""

from __future__ import annotations

import logging
import threading
import time
from collections import ChainMap
from collections.abc import Callable
from dataclasses import replace

from agent.config import Settings
from agent.daemon.state import State
from agent.errors import KernelError, LicetError, PolicyError, PolicyErrors
from agent.kernel.maps import PolicyMaps
from agent.model import HostFacts, Namespace
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
    ) -> None:
        self._settings = settings
        self._maps = maps
        self._state = state
        self._gather = gather
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
        if self.compiled and self.compiled.tables.targets:
            clauses = member_for_cgroup(self.compiled, path)
            if clauses != self.compiled.index.silent[Dimension.CGROUP]:
                seed = self.compiled.tables.seed
                self._add(Dimension.CGROUP, number, clauses)
                self._add(Dimension.CGROUP_PATH, string_hash(path, seed), clauses)

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

    def _add(self, dimension: Dimension, value: int, clauses: int) -> None:
        if self.compiled is None:
            return
        first_free = len(self.compiled.tables.sets)
        set_id = self._late_sets.setdefault(clauses, first_free + len(self._late_sets))
        self._late_members[(dimension, value)] = set_id
        try:
            self._maps.add_member(dimension, value, clauses, set_id)
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
    ) == (b.host_netns, b.addresses, b.users, b.groups, b.realpaths, b.clock_synced)
