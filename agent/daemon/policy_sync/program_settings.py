"""Settings and host values that the BPF programs need beside the policy."""

from __future__ import annotations

from dataclasses import dataclass

from agent.config import Settings
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.observe.proc import ProcReader
from agent.system.netns import own_cookie


@dataclass(frozen=True, slots=True)
class ProgramSettings:
    settings: Settings
    maps: PolicyMaps
    keeper: PolicyKeeper
    reader: ProcReader

    def tell(self) -> None:
        """Write the values to the map. Call this whenever another policy is put in force."""
        no_policy = self.keeper.policy is None
        self.maps.tune(
            host_netns=own_cookie(),
            edges=self.settings.edges == "always" or (self.settings.edges == "auto" and no_policy),
            flow_events=self.settings.events.flows,
            host_pidns=self.reader.host_pid_namespace,
        )
