"""What is judged by now, and the names that arrive for it."""

from __future__ import annotations

import contextlib
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence

from agent.daemon.policy_sync.generation import Generation
from agent.model import HostFacts, Namespace, Target
from agent.policy.tables.compile import Compiled
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables
from agent.policy.values import Finding, Policy

Addition = Callable[[Generation], None]


class InForce:
    """Names arrive from the kernel in the loop while another thread compiles and fills tables. The lock is
    held while a name is added and while generations change places, never while tables are filled."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.generation = 0
        self.judged_since_ns = 0
        """CLOCK_BOOTTIME: attempts since then were judged by the policy in force, as the host was then."""
        self._in_force: Generation | None = None
        self._lock = threading.RLock()
        self._since_gathering: list[Addition] | None = None
        """Names that came after the facts were gathered, to be added to what is compiled from those. None: no
        facts are being gathered or compiled."""

    @property
    def policy(self) -> Policy | None:
        now = self._in_force
        return now.policy if now else None

    def targets_in_force(self) -> Sequence[Target]:
        """After a bad policy at start the kernel goes on judging by the earlier one."""
        policy = self.policy
        return policy.targets if policy else tuple(self.ids.targets.values())

    @property
    def sha256(self) -> str:
        """Of its files; empty without a policy."""
        policy = self.policy
        return policy.sha256 if policy else ""

    @property
    def compiled(self) -> Compiled | None:
        now = self._in_force
        return now.compiled if now else None

    @property
    def facts(self) -> HostFacts | None:
        now = self._in_force
        return now.facts if now else None

    @property
    def warnings(self) -> tuple[Finding, ...]:
        """Of the policy in force, as the host was at the last look."""
        now = self._in_force
        return now.warnings() if now else ()

    @property
    def unnamed(self) -> int:
        """Containers whose name is not known, though the policy speaks of names."""
        now = self._in_force
        return len(now.unnamed) if now else 0

    @property
    def unnamed_since_s(self) -> dict[str, float]:
        """By the path of such a container's cgroup: when it appeared."""
        now = self._in_force
        return dict(now.unnamed.copy().values()) if now else {}

    @property
    def tables(self) -> Tables | None:
        """What the kernel judges by now: the compiled tables, and the names that came after them."""
        with self._lock:
            return self._in_force.tables if self._in_force else None

    def judged_by(self) -> tuple[Compiled, Tables] | None:
        """The compiled policy, and `tables`, of one generation; None: nothing is judged."""
        with self._lock:
            now = self._in_force
            return None if now is None or now.policy is None else (now.compiled, now.tables)

    def executable_known(self, path: str) -> None:
        """A path the kernel saw for the first time: does a glob of the policy take it?"""
        self._add(lambda generation: generation.add_executable(path))

    def cgroup_made(self, number: int, path: str, *, by_root: bool = True) -> None:
        """A cgroup the policy speaks of is a member, and so is a container's made again at its path, also
        while no daemon runs: the kernel looks the path up. by_root: nobody else could have made it there."""
        self._add(lambda generation: generation.add_cgroup(number, path, by_root))

    def name_containers(self, newer_than_s: float = math.inf) -> None:
        """Look again for names that were not there, of containers that appeared so many seconds ago."""
        now, now_s = self._in_force, time.monotonic()
        for number, (path, since_s) in list(now.unnamed.items()) if now else ():
            if now_s - since_s < newer_than_s:
                self.cgroup_made(number, path)  # else it would not be awaited

    def awaits_home(self, newer_than_s: float) -> bool:
        """Has a container appeared that a service is at, whose network namespace is not known yet?"""
        with self._lock:
            return self._in_force is not None and self._in_force.awaits_home(newer_than_s)

    def cgroups_gone(self, numbers: Iterable[int], paths: Iterable[str]) -> None:
        """Cgroups that are there no more. Without this, a host that starts a container each second would fill
        the table in three days."""
        with self._lock:
            if self._in_force is not None:
                self._in_force.drop_cgroups(numbers, paths)

    def namespace_seen(self, namespace: Namespace) -> None:
        """One that nobody has looked at. One without an address yet stays unknown: it may get one before the
        first connect()."""
        if namespace.addresses:
            self._add(lambda generation: generation.add_namespace(namespace))

    def _add(self, add: Addition) -> None:
        with self._lock:
            if self._since_gathering is not None:
                self._since_gathering.append(add)
            if self._in_force is not None:
                add(self._in_force)

    @contextlib.contextmanager
    def _names_kept(self) -> Iterator[None]:
        """Those that come meanwhile are not in the facts, perhaps."""
        with self._lock:
            self._since_gathering = []
        try:
            yield
        finally:
            with self._lock:
                self._since_gathering = None
