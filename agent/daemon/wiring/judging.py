"""Builds the parts that judge, with their facts, for the daemon and for an upgrade before it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from agent.config import Settings
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.policy_sync.generation import Sources
from agent.daemon.policy_sync.host_facts import Host, containers_of
from agent.daemon.policy_sync.keeper import PolicyKeeper
from agent.daemon.policy_sync.program_settings import ProgramSettings
from agent.daemon.tracking.attribution import Attributor
from agent.daemon.tracking.listener_owners import ListenerOwners
from agent.daemon.tracking.listener_rows import ListenerRows
from agent.daemon.tracking.listeners import Listening
from agent.daemon.wiring.licensing import license_keeper
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.names import Names
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.observe.accounts import Accounts
from agent.observe.containers import Containers
from agent.observe.inventory import Inventory
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader, UserNames
from agent.state_files import State


@dataclass(frozen=True, slots=True)
class Judging:
    """The parts that judge, with their facts."""

    state: State
    maps: PolicyMaps
    counters: Counters
    containers: Containers
    reader: ProcReader
    namespaces: Namespaces
    names: Names
    attributor: Attributor
    license_time: LicenseTime
    host: Host
    keeper: PolicyKeeper
    listening: Listening
    program_settings: ProgramSettings


def judging(settings: Settings, pins: Pins, cgroup_mount: Path) -> Judging:
    """The parts that judge by the maps of `pins`."""
    state = State(settings.paths.state, settings.paths.run)
    maps, counters = PolicyMaps(pins), Counters(pins)
    seed, users = maps.ensure_seed(), UserNames()
    containers = containers_of(settings, cgroup_mount)
    reader = ProcReader(
        settings.paths.proc,
        cgroup_mount=cgroup_mount,
        users=users,
        container_of=containers.containing,
        unit_of=containers.unit_of,
    )
    namespaces = Namespaces(reader, settings.scope.namespaces)
    names = Names(counters.names, seed, reader.exe)
    license_time, accounts = LicenseTime(settings.paths.state), Accounts(settings.paths.etc)
    host = Host(reader, namespaces, cgroup_mount, seed, license_time, names, containers, accounts)
    documents = license_keeper(settings, license_time)
    keeper = PolicyKeeper(settings, maps, state, host, documents, Sources(containers, names))
    rows = ListenerRows(counters.owners, counters.more_strangers, counters.more_owners, counters.crowded)
    owners = ListenerOwners(rows, counters.socket_owners, reader, names)
    return Judging(
        state,
        maps,
        counters,
        containers,
        reader,
        namespaces,
        names,
        Attributor(reader, cgroup_mount, users),
        license_time,
        host,
        keeper,
        Listening(Inventory(reader, namespaces), reader, owners, keeper.ids),
        ProgramSettings(settings, maps, keeper, reader),
    )
