"""Emits events about the agent itself: its start and end, the policy, licenses and modes."""

from __future__ import annotations

from dataclasses import dataclass

from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.reporting.license_events import license_event
from agent.daemon.reporting.license_watch import News
from agent.daemon.reporting.outlet import Outlet
from agent.export.events import Event, now_text
from agent.license.clock import SECOND_NS, LicenseClock, Moment
from agent.model import show_time
from agent.wording import counted


@dataclass(frozen=True, slots=True)
class AgentReports:
    outlet: Outlet
    keeper: PolicyKeeper

    def started(self, version: str) -> None:
        self.outlet.log.write({"type": "started", "time": now_text(), "version": version})

    def stopped(self) -> None:
        self.outlet.log.write({"type": "stopped", "time": now_text()})
        self.outlet.console.stopped()

    def policy_loaded(self) -> None:
        policy, generation = self.keeper.policy, self.keeper.generation
        targets = counted(len(policy.targets) if policy else 0, "target")
        self.outlet.report("policy", {"message": f"generation {generation} in force: {targets}"})

    def policy_refused(self, why: str) -> None:
        is_last_good = self.keeper.is_last_good
        stays = "the last good policy is in force" if is_last_good else "the policy in force stays"
        event = {"type": "policy_error", "time": now_text(), "message": f"{stays}: {why}"}
        if is_last_good:
            self.outlet.log.write(event)  # to the event log only: the trouble is in the agent's log already
        else:
            self.outlet.write(event)

    def license(self, news: News, moment: Moment) -> None:
        """Report what there is to tell of a license."""
        self.outlet.report("license", license_event(news, moment))

    def license_time(self, clock: LicenseClock) -> None:
        """Report that the wall clock and license time differ by more than five minutes, or no longer do."""
        self.outlet.report(
            "license_time",
            {
                "off": clock.is_off,
                "offset_s": round(clock.wall_lead_ns / SECOND_NS, 3),
                "license_time": show_time(clock.moment(clock.boot_ns).license),
                "message": clock.problem or "the wall clock and license time agree again",
            },
        )

    def license_time_damaged(self, why: str) -> None:
        """Report that the stored license time is lost."""
        self.outlet.report("license_time", {"message": why})

    def mode(self, event: Event) -> None:
        """Report a mode that a user changed, or an override that ended."""
        self.outlet.write(event)
