"""What judges and what it needs to know, put together: for the daemon, and for an upgrade before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Self

from agent.config import Settings
from agent.daemon.policy_sync.generation import Sources
from agent.daemon.policy_sync.host_facts import Host, containers_of
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.state_files import State
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.listener_owners import ListenerOwners
from agent.daemon.tracking.listener_rows import ListenerRows
from agent.daemon.tracking.listeners import Listening
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.observe.accounts import Accounts
from agent.observe.clock import DeadlineClock
from agent.observe.containers import Containers
from agent.observe.inventory import Inventory
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader, UserNames
from agent.system.netns import own_cookie


@dataclass(frozen=True, slots=True)
class Judging:
    state: State
    maps: PolicyMaps
    counters: Counters
    containers: Containers
    reader: ProcReader
    namespaces: Namespaces
    names: Names
    attributor: Attributor
    host: Host
    keeper: PolicyKeeper
    listening: Listening
    clock: DeadlineClock

    @classmethod
    def by(cls, settings: Settings, pins: Pins, cgroup_mount: Path) -> Self:
        """By the maps of `pins`."""
        state, maps, counters = (
            State(settings.paths.state, settings.paths.run),
            PolicyMaps(pins),
            Counters(pins),
        )
        seed, user_name = maps.ensure_seed(), UserNames()
        containers = containers_of(settings, cgroup_mount)
        reader = ProcReader(
            settings.paths.proc,
            cgroup_mount=cgroup_mount,
            user_name=user_name,
            container_of=containers.containing,
            unit_of=containers.unit_of,
        )
        namespaces = Namespaces(reader, settings.scope.namespaces)
        names = Names(counters.names, seed, reader.exe)
        clock = DeadlineClock(state.newest_offset_ns())
        host = Host(
            reader,
            namespaces,
            cgroup_mount,
            seed,
            state.newest_time(),
            names.trusted_paths,
            containers,
            clock,
            Accounts(settings.paths.etc),
        )
        rows = ListenerRows(counters.owners, counters.more_strangers, counters.more_owners, counters.crowded)
        owners = ListenerOwners(rows, counters.socket_owners, reader, names.note)
        keeper = PolicyKeeper(settings, maps, state, host.facts, Sources(containers.at, names.forget))
        return cls(
            state,
            maps,
            counters,
            containers,
            reader,
            namespaces,
            names,
            Attributor(reader, cgroup_mount, user_name),
            host,
            keeper,
            Listening(Inventory(reader, namespaces), reader, owners, keeper.ids.target),
            clock,
        )

    def tune(self, settings: Settings) -> None:
        """Says to the programs what else of the settings and of the host they need."""
        no_policy = self.keeper.policy is None
        self.maps.tune(
            host_netns=own_cookie(),
            edges=settings.edges == "always" or (settings.edges == "auto" and no_policy),
            flow_events=settings.events.flows,
            host_pidns=self.reader.host_pid_namespace,
        )
