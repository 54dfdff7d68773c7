"""The policy in force: files → Policy → Tables → kernel, all of it or nothing."""

from __future__ import annotations

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from agent.config import Settings
from agent.daemon.policy_sync.generation import Generation, Sources
from agent.daemon.policy_sync.heap import Heap
from agent.daemon.state_files import State
from agent.errors import KernelError, LicetError, PolicyError, PolicyErrors, shown
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import HostFacts, Namespace
from agent.policy.document.load import Source, load_in_place, parse_sources
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.tables.shape import Tables
from agent.policy.values import Policy
from agent.system.boottime import boot_ns

log = logging.getLogger(__name__)

Addition = Callable[[Generation], None]


class PolicyKeeper:
    """Owns what is judged by. `gather` reads the host as far as a policy needs it.

    Names arrive from the kernel in the loop while another thread compiles and fills tables. The lock is held
    while a name is added and while generations change places, never while tables are filled."""

    def __init__(
        self,
        settings: Settings,
        maps: PolicyMaps,
        state: State,
        gather: Callable[[Policy | None], HostFacts],
        sources: Sources | None = None,
    ) -> None:
        self._settings = settings
        self._maps = maps
        self._state = state
        self._gather = gather
        self._sources = sources or Sources()
        self.ids: Ids = state.ids()
        self.generation = 0
        self.loaded_unix_s = 0.0
        self.judged_since_ns = 0
        """CLOCK_BOOTTIME: attempts since then were judged by the policy in force, as the host was then."""
        self.failures = 0
        self.last_error = ""
        self.failed_at_host = False
        """The last error was the host's: the files may be as they should, or a mount is missing."""
        self.is_last_good = False
        """The files were refused at the start: what is in force is what was last."""
        self._files: Sequence[str] = ()
        """Of the policy in force, or of the last good one."""
        self._device: int | None = None
        """What policy.d was on."""
        self._heap = Heap()
        self._in_force: Generation | None = None
        self._lock = threading.RLock()
        self._since_gathering: list[Addition] | None = None
        """Names that came after the facts were gathered, to be added to what is compiled from those. None: no
        facts are being gathered or compiled."""

    @property
    def policy(self) -> Policy | None:
        now = self._in_force
        return now.policy if now else None

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

    def start(self) -> None:
        """As reload. Where the files are refused, the last good policy is in force; `last_error` says why.

        Raises LicetError where there is none, or where it is refused, too."""
        kept = self._state.kept_policy()
        self._files = tuple(source.file for source in kept)
        self._device = _device(self._settings.paths.policy_dir)
        try:
            self.reload()
        except LicetError as error:
            if not kept:
                raise
            try:
                self._read_and_install(lambda: parse_sources(kept))
            except LicetError as worse:
                raise error from worse
            self.is_last_good = True

    def reload(self) -> None:
        """Read the files and put them in force.

        Raises PolicyErrors or KernelError; what was in force then stays in force."""
        paths = self._settings.paths
        sources: tuple[Source, ...] = ()

        def read() -> Policy | None:
            nonlocal sources
            loaded = load_in_place(paths.policy, paths.policy_dir)
            self._refuse_vanished(loaded.policy.files if loaded else ())
            sources = loaded.sources if loaded else ()
            return loaded.policy if loaded else None

        try:
            self._read_and_install(read)
        except (LicetError, OSError) as error:  # the host is looked at for it: what is there may refuse
            self.failures += 1
            self.last_error = str(error)
            self.failed_at_host = not isinstance(error, PolicyErrors) or error.is_unread
            if isinstance(error, OSError):
                raise KernelError(f"the host cannot be looked at: {error}") from error
            raise
        self.last_error, self.is_last_good = "", False
        if sources:
            self._files = tuple(source.file for source in sources)
            self._device = _device(paths.policy_dir)
            self._state.keep_policy(sources)

    def _read_and_install(self, read: Callable[[], Policy | None]) -> None:
        with self._heap.filled(), self._names_kept():
            policy = read()
            self._install(policy, self._gather(policy))

    @property
    def trouble(self) -> str:
        """What is in force is not what the files say, and not what was there when they were refused."""
        if not self.is_last_good:
            return ""
        return f"the policy's files are refused; the last good policy is in force instead: {self.last_error}"

    def note_in_force(self) -> None:
        """All that follows from a policy, gates included, has been done."""
        self.loaded_unix_s = time.time()

    def _refuse_vanished(self, files: Sequence[str]) -> None:
        """A mount that is not there must not take services out of force. A file of policy.d may go, as long
        as policy.d stays."""
        main, folder = self._settings.paths.policy, self._settings.paths.policy_dir
        if self._files and not files:
            gone, reason = main, f"the policy is gone, and nothing is in {folder}"
        elif str(main) in self._files and str(main) not in files:
            gone, reason = main, "the main file of the policy is gone"
        elif missing := [file for file in self._files if file not in files and Path(file).parent == folder]:
            if self._device == _device(folder):
                return
            gone, reason = folder, f"the folder is another one or gone, and {missing[0]} with it"
        else:
            return
        remedy = "the one loaded before stays in force; to do without, write `version: 1` there"
        error = PolicyError(path=str(gone), line=None, reason=reason, remedy=remedy)
        raise PolicyErrors([error], is_unread=True)

    def follow_host(self) -> bool:
        """Compile again where the host has changed in a way the policy speaks of; True if it had."""
        with self._names_kept():
            facts = self._gather(self.policy)
            with self._lock:
                now = self._in_force
                if now is None:
                    return False  # what an earlier run has put in force stays
                if _same(facts, now.facts):
                    now.follow_namespaces(facts)
                    return False
            with self._heap.filled():
                self._install(now.policy, facts)
            return True

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

    def _install(self, policy: Policy | None, facts: HostFacts) -> None:
        compiled = compile_policy(policy, facts, self.ids)
        self._state.store_ids(self.ids)  # before the kernel counts by them
        try:
            prepared = self._maps.prepare(compiled.tables)
        except OSError as error:
            raise KernelError(f"the policy does not fit into the kernel's tables: {error}") from error
        with self._lock:
            before = self._in_force
            fresh = Generation(policy, compiled, facts, prepared.members, self._sources)
            if before is not None:
                fresh.awaited = before.awaited
            # before these tables are in force: without them, somebody known would be unresolved for a moment
            for add in self._since_gathering or ():
                add(fresh)
            self.generation = self._maps.put_in_force(prepared)
            self._in_force = fresh
            if before is None or before.policy is not policy:
                self.judged_since_ns = boot_ns()
        if before is not None:
            before.members.close()
        for warning in shown(compiled.warnings):
            log.warning("%s", warning)

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

    def has_homes(self) -> bool:
        """Is a service at containers?"""
        policy = self.policy
        return policy is not None and any(service.at_containers for service in policy.services.values())

    def is_home(self, number: int) -> bool:
        """Is this cgroup, by its id, that of a container that a service is at?"""
        facts = self.facts
        return facts is not None and any(facts.cgroups.get(path) == number for path in facts.container_netns)

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


def _device(folder: Path) -> int | None:
    """None: it is not there."""
    try:
        return folder.stat().st_dev
    except OSError:
        return None


def _same(a: HostFacts, b: HostFacts) -> bool:
    """What is added one by one as it appears (executables, cgroups, namespaces) is no reason to compile."""
    drift_ns = abs(a.boot_offset_ns - b.boot_offset_ns)
    return drift_ns < 500_000_000 and _compiled_from(a) == _compiled_from(b)


def _compiled_from(facts: HostFacts) -> tuple[object, ...]:
    return (
        facts.host_netns,
        facts.addresses,
        facts.local_routes,
        facts.elsewhere,
        facts.users,
        facts.groups,
        facts.members,
        facts.subordinates,
        facts.realpaths,
        facts.clock_synced,
        _homes(facts),
    )


def _homes(facts: HostFacts) -> object:
    """Where services that are at a container are."""
    addresses = {one.cookie: one.addresses for one in facts.namespaces}
    return {path: (netns, addresses.get(netns, ())) for path, netns in facts.container_netns.items()}
