"""The generation in force, and the names that arrive for it."""

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
    """Adds names from the kernel in the loop, while another thread compiles and fills tables.

    The lock is held while a name is added and while generations are switched, never while tables are
    filled."""

    def __init__(self, ids: Ids) -> None:
        self.ids = ids
        self.generation = 0
        self.judged_since_ns = 0
        """CLOCK_BOOTTIME from which on attempts were judged by the policy in force and the host facts of that
        time."""
        self._in_force: Generation | None = None
        self._lock = threading.RLock()
        self._since_gathering: list[Addition] | None = None
        """Names that arrived after the facts were gathered, to be added to the tables compiled from those
        facts. None while no facts are being gathered or compiled."""

    @property
    def policy(self) -> Policy | None:
        now = self._in_force
        return now.policy if now else None

    def targets_in_force(self) -> Sequence[Target]:
        """Targets the kernel judges by. If the policy at start is invalid, these are the targets of the
        earlier policy."""
        policy = self.policy
        return policy.targets if policy else tuple(self.ids.targets.values())

    @property
    def sha256(self) -> str:
        """SHA-256 of the policy's files; empty without a policy."""
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
        """Warnings of the policy in force, by the host facts of the last look."""
        now = self._in_force
        return now.warnings() if now else ()

    @property
    def unnamed(self) -> int:
        """Number of containers without a known name, while the policy has selectors by name."""
        now = self._in_force
        return len(now.unnamed) if now else 0

    @property
    def unnamed_since_s(self) -> dict[str, float]:
        """When each unnamed container appeared, by the path of its cgroup."""
        now = self._in_force
        return dict(now.unnamed.copy().values()) if now else {}

    @property
    def tables(self) -> Tables | None:
        """The tables the kernel judges by now: the compiled ones, with the names that became known after
        them."""
        with self._lock:
            return self._in_force.tables if self._in_force else None

    def judged_by(self) -> tuple[Compiled, Tables] | None:
        """The compiled policy and `tables` of one generation, or None if no policy is in force."""
        with self._lock:
            now = self._in_force
            return None if now is None or now.policy is None else (now.compiled, now.tables)

    def executable_known(self, path: str) -> None:
        """Add an executable path that the kernel saw for the first time, if a glob of the policy matches
        it."""
        self._add(lambda generation: generation.add_executable(path))

    def cgroup_made(self, number: int, path: str, *, by_root: bool = True) -> None:
        """Add a cgroup that the policy names, or a container's. If it is made again at its path, the kernel
        finds it by the path, also while no daemon runs.

        `by_root`: only root could have made it there."""
        self._add(lambda generation: generation.add_cgroup(number, path, by_root))

    def name_containers(self, newer_than_s: float = math.inf) -> None:
        """Look up the missing names of containers that appeared within the last `newer_than_s` seconds."""
        now, now_s = self._in_force, time.monotonic()
        for number, (path, since_s) in list(now.unnamed.items()) if now else ():
            if now_s - since_s < newer_than_s:
                self.cgroup_made(number, path)  # else its network namespace would not be awaited

    def awaits_home(self, newer_than_s: float) -> bool:
        """True if a container that a service runs in appeared within the last `newer_than_s` seconds, and its
        network namespace is not known yet."""
        with self._lock:
            return self._in_force is not None and self._in_force.awaits_home(newer_than_s)

    def cgroups_gone(self, numbers: Iterable[int], paths: Iterable[str]) -> None:
        """Remove cgroups that no longer exist. Otherwise a host that starts a container each second would
        fill the table in three days."""
        with self._lock:
            if self._in_force is not None:
                self._in_force.drop_cgroups(numbers, paths)

    def namespace_seen(self, namespace: Namespace) -> None:
        """Add a namespace that was not looked at before. One without an address stays unknown: an address may
        come before the first connect()."""
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
        """Collect the names that arrive meanwhile, because the facts may lack them."""
        with self._lock:
            self._since_gathering = []
        try:
            yield
        finally:
            with self._lock:
                self._since_gathering = None
