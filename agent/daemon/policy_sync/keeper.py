"""The policy in force: files → Policy → Tables → kernel, as a whole or not at all."""

from __future__ import annotations

import contextlib
import logging
import time

from agent.config import Settings
from agent.daemon.licensing.keeper import LicenseKeeper
from agent.daemon.licensing.time import MOVED_NS
from agent.daemon.policy_sync.generation import Generation, Sources
from agent.daemon.policy_sync.heap import Heap
from agent.daemon.policy_sync.host_facts import Host
from agent.daemon.policy_sync.in_force import InForce
from agent.daemon.policy_sync.joiner import CompiledFrom, Joiner
from agent.daemon.policy_sync.policy_files import PolicyFiles
from agent.errors import KernelError, LicetError, PolicyErrors, shown
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import HostFacts
from agent.policy.document.load import parse_sources
from agent.policy.values import Policy
from agent.state_files import State
from agent.system.boottime import boot_ns

log = logging.getLogger(__name__)


class PolicyKeeper(InForce):
    """Puts the policy's files in force, and compiles the policy again when the host has changed."""

    def __init__(
        self,
        settings: Settings,
        maps: PolicyMaps,
        state: State,
        host: Host,
        licenses: LicenseKeeper,
        sources: Sources | None = None,
    ) -> None:
        super().__init__(state.ids())
        self._maps = maps
        self._state = state
        self._host = host
        self.documents = licenses
        self.joiner = Joiner(licenses, require_signed=settings.require_signed)
        self.compiled_from: CompiledFrom | None = None
        """What the policy in force was compiled from; None before the first."""
        self._files = PolicyFiles(settings.paths, state)
        self._sources = sources or Sources()
        self.loaded_unix_s = 0.0
        self.failures = 0
        self.last_error = ""
        self.failed_at_host = False
        """True if the last error came from the host, such as a missing mount. The files may then be valid."""
        self.is_last_good = False
        """True if the files were refused at the start and the last good policy is in force."""
        self._heap = Heap()

    def start(self) -> None:
        """Like reload. If the files are refused, the last good policy is put in force, and `last_error` has
        the reason.

        Raises LicetError if there is no last good policy, or if it is refused, too."""
        kept = self._files.kept()
        try:
            self.reload()
        except LicetError as error:
            if not kept:
                raise
            try:
                with self._heap.filled(), self._names_kept():
                    self._install_here(parse_sources(kept, self.documents.moment.license))
            except LicetError as worse:
                raise error from worse
            self.is_last_good = True

    def reload(self, *, unless_same: bool = False) -> bool:
        """Read the files and put them in force. `unless_same`: but not if that would change nothing. True if
        tables were compiled.

        Raises PolicyErrors or KernelError; the policy in force then stays, with the license documents of
        now."""
        self._refresh_documents()
        try:
            with self._heap.filled(), self._names_kept():
                loaded = self._files.read(self.documents.moment.license)
                files = [source.file for source in loaded.sources] if loaded else []
                log.debug("policy: read %s", ", ".join(files) or "no file")
                base = loaded.policy if loaded else None
                facts = self._host.facts(base)
                is_new = not (unless_same and self._is_current(base, facts))
                if is_new:
                    self._install(base, facts)
        except (LicetError, OSError) as error:  # OSError: reading host facts may fail
            self.failures += 1
            self.last_error = str(error)
            log.debug("policy: refused, the policy in force stays: %s", error)
            self.failed_at_host = not isinstance(error, PolicyErrors) or error.is_unread
            self._renew()
            if isinstance(error, OSError):
                raise KernelError(f"the host facts cannot be read: {error}") from error
            raise
        self.last_error, self.is_last_good = "", False
        self._files.in_force(loaded.sources if loaded else ())
        return is_new

    def _refresh_documents(self) -> None:
        before = self.documents.findings
        self.documents.refresh()
        for finding in shown([one for one in self.documents.findings if one not in before]):
            log.warning("%s", finding)

    def licensed_by(self) -> tuple[Policy | None, CompiledFrom | None]:
        """The policy in force with its license documents, and what it was compiled from."""
        with self._lock:
            return self.policy, self.compiled_from

    def _install_here(self, base: Policy | None) -> None:
        self._install(base, self._host.facts(base))

    def _renew(self) -> None:
        """Put the policy in force again with the license documents of now: a renewal does not wait for the
        policy's files."""
        before = self.compiled_from
        if before and not self.joiner.is_past(before):
            self.compiled_from = self.joiner.renewed(before)
        elif before:
            with contextlib.suppress(LicetError, OSError), self._heap.filled(), self._names_kept():
                self._install_here(before.base)

    @property
    def problem(self) -> str:
        """Reason why the policy in force differs from the files and from the policy before they were refused;
        "" if it does not."""
        if not self.is_last_good:
            return ""
        return f"the policy's files are refused; the last good policy is in force instead: {self.last_error}"

    def note_in_force(self) -> None:
        """Record that every consequence of the policy, gates included, has been carried out."""
        self.loaded_unix_s = time.time()

    def follow_host(self) -> bool:
        """Compile again if the host, or the state of a license document, has changed in a way that matters to
        the policy. True if it had."""
        self.documents.judge_again()
        with self._names_kept():
            facts = self._host.facts(self.policy)
            before = self.compiled_from
            if before is None:
                return False  # the policy that an earlier run put in force stays
            if self._is_current(before.base, facts):
                return False
            log.debug("policy: compiled again, because the host or a license has changed")
            with self._heap.filled():
                self._install(before.base, facts)
            return True

    def _is_current(self, base: Policy | None, facts: HostFacts) -> bool:
        """True if compiling would give what is in force. What needs no compiling is then followed."""
        with self._lock:
            now, before = self._in_force, self.compiled_from
            if now is None or before is None or before.base != base:
                return False
            if not _same(facts, now.facts) or self.joiner.is_past(before):
                return False
            now.follow_namespaces(facts)
            self.compiled_from = self.joiner.renewed(before)
            return True

    def _install(self, base: Policy | None, facts: HostFacts) -> None:
        began_s = time.monotonic()
        policy, compiled, compiled_from = self.joiner.compiled(base, facts, self.ids)
        self._state.store_ids(self.ids)  # store them before the kernel's counters use them
        try:
            prepared = self._maps.prepare(compiled.tables)
        except OSError as error:
            raise KernelError(f"the policy does not fit into the kernel's tables: {error}") from error
        with self._lock:
            before = self._in_force
            fresh = Generation(policy, compiled, facts, prepared.members, self._sources)
            if before is not None:
                fresh.awaited = before.awaited
            # before the switch: a known consumer must not be unresolved for a moment
            for add in self._since_gathering or ():
                add(fresh)
            self.generation = self._maps.put_in_force(prepared)
            self._in_force, self.compiled_from = fresh, compiled_from
            if before is None or not _is_same_policy(before.policy, policy):
                self.judged_since_ns = boot_ns()
        log.debug(
            "policy: generation %d in force, %d targets, %d sets, compiled and written in %.0f ms",
            self.generation,
            len(compiled.tables.rows),
            len(compiled.tables.sets),
            (time.monotonic() - began_s) * 1000,
        )
        if before is not None:
            before.members.close()
        for warning in shown(fresh.warnings()):
            log.warning("%s", warning)


def _is_same_policy(a: Policy | None, b: Policy | None) -> bool:
    """True if both are made of the same files and the same licenses."""
    return a is b or (a is not None and b is not None and (a.sha256, a.licenses) == (b.sha256, b.licenses))


def _same(a: HostFacts, b: HostFacts) -> bool:
    """True if no recompile is needed. Executables, cgroups and namespaces are added one by one, so a change
    of them needs none."""
    return same_deadlines(a, b) and _compiled_from(a) == _compiled_from(b)


def same_deadlines(a: HostFacts, b: HostFacts) -> bool:
    """True if the times compiled from `a` hold for `b`, too. Where the wall clock is behind license time, no
    deadline goes by it."""
    moved_ns = abs(a.boot_offset_ns - b.boot_offset_ns), abs(a.start_offset_ns - b.start_offset_ns)
    return max(moved_ns) < MOVED_NS and a.clock_synced == b.clock_synced


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
        _homes(facts),
    )


def _homes(facts: HostFacts) -> object:
    """Network namespaces of the services that run in containers."""
    addresses = {one.cookie: one.addresses for one in facts.namespaces}
    return {path: (netns, addresses.get(netns, ())) for path, netns in facts.container_netns.items()}
