"""Puts the policy's files in force at the start, after changes, and on request."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass, field

from agent.daemon.enforcement.flow_cutter import FlowCutter
from agent.daemon.enforcement.gates import Gates
from agent.daemon.loop.host_watch import HostWatch
from agent.daemon.loop.schedule import Background
from agent.daemon.policy_sync.exec_watch import ExecWatch
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.program_settings import ProgramSettings
from agent.daemon.policy_sync.retrying import ReloadRetry
from agent.daemon.reporting.agent_reports import AgentReports
from agent.daemon.reporting.allowance import Allowance
from agent.daemon.reporting.passes import Passes
from agent.daemon.reporting.troubles import Troubles
from agent.daemon.tracking.last_hour import LastHour
from agent.enforce.mode_overrides import Overrides
from agent.errors import LicetError
from agent.export.service_manager import ServiceManager
from agent.observe.policy_watch import PolicyWatch

log = logging.getLogger(__name__)


MOST_AT_ONCE, PER_S = 64, 0.2
"""Events of policies in force after changes of files, which may change all the time."""


def _allowance() -> Allowance:
    return Allowance(MOST_AT_ONCE, PER_S)


@dataclass(slots=True, eq=False)
class PolicyReload:
    keeper: PolicyKeeper
    program_settings: ProgramSettings
    overrides: Overrides
    gates: Gates
    cutter: FlowCutter
    execs: ExecWatch
    last_hour: LastHour
    reports: AgentReports
    manager: ServiceManager
    troubles: Troubles
    passes: Passes
    retry: ReloadRetry
    files: PolicyWatch
    host: HostWatch
    background: Background
    quiet: bool
    """True if no lines for people are printed, so a refused policy is logged."""
    _is_watching: bool = False
    _waits: bool = False
    """A reload of changed files has not begun to read them. It covers all changes until then."""
    _is_untold: bool = False
    """No event has reported the policy in force yet."""
    _allowance: Allowance = field(default_factory=_allowance)

    async def first(self, generation: int) -> None:
        """Put the first policy in force. `generation` is that of an earlier run in the kernel; 0 if there is
        none.

        A bad policy at start is an error, unless there is a last good one, or the kernel still judges by an
        earlier one."""
        try:
            await asyncio.to_thread(self.keeper.start)
        except LicetError as error:
            if not generation:
                raise
            self.keeper.generation = generation
            log.error("the policy of an earlier run stays in force: %s", error)
        self.retry.reloaded()
        if self.keeper.last_error:
            self.reports.policy_refused(self.keeper.last_error)

    async def settle_first(self) -> None:
        """Carry out the consequences of the first policy."""
        await asyncio.to_thread(self.last_hour.restore)
        self.program_settings.tell()
        await asyncio.to_thread(self.overrides.restore)
        await self._settle_gates()
        if not self.keeper.last_error:
            self.keeper.note_in_force()

    async def reload(self, *, unless_same: bool = False) -> None:
        """Reload the policy. `unless_same`: compile and tell nothing if nothing changes with it.

        Raises LicetError; the policy in force then stays."""
        if not self.troubles.policy_is_in_force:
            await self._reload(unless_same)
            return
        self.manager.reloading()
        try:
            await self._reload(unless_same)
        finally:
            self.manager.ready(self.in_force())

    async def reload_quietly(self, *, unless_same: bool = False) -> None:
        try:
            await self.reload(unless_same=unless_same)
        except LicetError as error:
            if self.quiet:  # otherwise the reason was printed for people
                log.error("the policy in force stays: %s", error)

    async def _reload(self, unless_same: bool) -> None:
        async with self.host.busy:
            self._waits, was_refused = False, bool(self.keeper.last_error)
            try:
                with self.passes.passing("reload"):
                    is_new = await asyncio.to_thread(self.keeper.reload, unless_same=unless_same)
            except LicetError as error:
                self.reports.policy_refused(str(error))
                raise
            finally:
                self.retry.reloaded()
        if not is_new and not was_refused:
            self.keeper.note_in_force()
            return
        self.program_settings.tell()
        self.follow_execs()
        await asyncio.to_thread(self.overrides.restore)
        await self._settle_gates()
        self.cutter.look_again()
        self._tell(is_asked_for=not unless_same)
        self.keeper.note_in_force()
        self.background.start(self.store_uses())  # stores by which policy uses were judged
        self.host.wake.set()

    def _tell(self, *, is_asked_for: bool) -> None:
        """Report the policy in force. After changes of files that come too often, it is reported later, as it
        is then."""
        self._is_untold = not is_asked_for and not self._allowance.take()
        if not self._is_untold:
            self.reports.policy_loaded()

    async def _settle_gates(self) -> None:
        """Attach or detach gates. If they cannot be attached, observing goes on, because it still has value.

        While the policy of an earlier run is in force, its gates stay as they are."""
        if self.keeper.policy is None and self.keeper.generation and self.keeper.last_error:
            return
        try:
            await self.gates.settle()
        except LicetError as error:
            log.error("nothing is refused, though the policy enforces: %s", error)

    def follow_execs(self) -> None:
        if self.execs.follow():
            self.background.start(asyncio.to_thread(self.execs.look_back))

    async def store_uses(self) -> None:
        await asyncio.to_thread(self.last_hour.store)

    def follow_files(self) -> None:
        """Watch the files if the kernel can report changes; at first it may have had no room for a watch."""
        descriptor = self.files.fileno()
        if descriptor is not None and not self._is_watching:
            asyncio.get_running_loop().add_reader(descriptor, self.look_at_files)
            self._is_watching = True

    async def follow_up(self) -> None:
        """Reload after changes that the kernel does not report, as of mounts, and when a failed reload is due
        again."""
        if bool(self.files.problem) or await asyncio.to_thread(self.files.is_elsewhere):
            self.look_at_files()
            self.follow_files()
        if self._is_untold:
            self._tell(is_asked_for=False)
        if self.retry.is_due():
            self.background.start(self.reload_quietly(unless_same=True))

    def look_at_files(self) -> None:
        if self.files.changed() and not self._waits:
            self._waits = True
            self.background.start(self.reload_quietly(unless_same=True))

    def in_force(self) -> str:
        """The policy in force as one line, for `systemctl status`."""
        if self.keeper.is_last_good:
            return "the policy's files are refused; the last good policy is in force"
        if self.keeper.last_error:
            return f"the new policy is refused; generation {self.keeper.generation} stays in force"
        if self.keeper.policy is None:
            return "no policy: watching only"
        return f"policy generation {self.keeper.generation} is in force"
