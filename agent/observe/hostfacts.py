"""Gathers the facts about this host that compiling a policy needs."""

from __future__ import annotations

import grp
import pwd
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypedDict

from agent.license.clock import LicenseClock
from agent.model import Container, HostFacts, Namespace
from agent.observe.accounts import Accounts
from agent.observe.addresses import cluster_addresses, own_addresses
from agent.observe.cgroup import delegated_in, list_cgroups, processes_in
from agent.observe.containers import Containers
from agent.observe.ephemeral import ephemeral_ports
from agent.observe.executables import Executables, find_executables, running_executables
from agent.observe.local_routes import own_local_routes
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.units import units_at_rest
from agent.policy.terms.container_selector import ContainerSelector
from agent.system.boottime import boot_ns


@dataclass(frozen=True, slots=True)
class Mentions:
    """The names that a policy mentions."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    executables: frozenset[str] = frozenset()
    """exe selectors: absolute paths and globs."""
    homes: frozenset[ContainerSelector] = frozenset()
    """Selectors of containers that a service is at."""
    units: frozenset[str] = frozenset()
    excluded_users: frozenset[str | int] = frozenset()
    excluded_groups: frozenset[str | int] = frozenset()


def gather(
    mentions: Mentions,
    *,
    reader: ProcReader,
    namespaces: Namespaces,
    cgroup_mount: Path,
    hash_seed: int,
    clock: LicenseClock,
    known_executables: Iterable[str] = (),
    on_disk: Executables | None = None,
    containers: Containers | None = None,
    accounts: Accounts | None = None,
) -> HostFacts:
    """Gather the current facts. `known_executables`: those the kernel has reported so far. `clock`: license
    time as of now. With broad globs, searching the disk takes 0.1 s and more; pass `on_disk` of an earlier
    search to skip it. Raises KernelError."""
    own, addresses = namespaces.own(), own_addresses()
    on_disk = on_disk or find_executables(mentions.executables)
    all_namespaces = namespaces.all()
    cgroups = list_cgroups(cgroup_mount)
    named = {path: one for path in cgroups if (one := containers.at(path))} if containers else {}
    return HostFacts(
        host_netns=own.cookie,
        addresses=addresses,
        local_routes=own_local_routes(addresses),
        elsewhere=cluster_addresses(),
        namespaces=tuple(one for one in all_namespaces if one.cookie != own.cookie),
        **account_facts(mentions, accounts or Accounts()),
        executables=on_disk.found | running_executables(reader) | frozenset(known_executables),
        for_anybody=on_disk.for_anybody,
        realpaths=on_disk.realpaths,
        cgroups=cgroups,
        containers=named,
        delegated=_delegated(cgroup_mount, cgroups, containers),
        container_netns=_homes(mentions, named, reader, cgroup_mount, (own, *all_namespaces)),
        published=containers.published() if containers else (),
        ephemeral=ephemeral_ports(),
        **clock_facts(clock),
        hash_seed=hash_seed,
        scripts=on_disk.scripts,
        units_at_rest=units_at_rest(mentions.units, cgroups, cgroup_mount),
    )


def _delegated(mount: Path, cgroups: Iterable[str], containers: Containers | None) -> frozenset[str]:
    return delegated_in(mount, cgroups) | (containers.delegated if containers else frozenset())


def _homes(
    mentions: Mentions,
    containers: Mapping[str, Container],
    reader: ProcReader,
    cgroup_mount: Path,
    namespaces: Iterable[Namespace],
) -> dict[str, int]:
    """The network namespace of each container that a service is at, taken from its oldest process. A
    container without a process is left out."""
    cookies = {one.inode: one.cookie for one in namespaces}
    found = {}
    for path, container in containers.items():
        if any(each.takes(container) for each in mentions.homes):
            inodes = (reader.netns_inode(pid) for pid in sorted(processes_in(cgroup_mount, path)))
            inode = next((inode for inode in inodes if inode), 0)
            if inode in cookies:
                found[path] = cookies[inode]
    return found


class AccountFacts(TypedDict):
    """Part of HostFacts."""

    users: dict[str, int]
    groups: dict[str, int]
    members: dict[int, frozenset[int]]
    subordinates: dict[int, tuple[range, ...]]


def account_facts(mentions: Mentions, accounts: Accounts) -> AccountFacts:
    users, groups = uids(mentions.users), gids(mentions.groups)
    members = accounts.members(_numbers(mentions.excluded_groups, groups))
    excluded = _numbers(mentions.excluded_users, users).union(*members.values())
    return AccountFacts(
        users=users, groups=groups, members=members, subordinates=accounts.subordinates(excluded)
    )


def _numbers(named: Iterable[str | int], known: Mapping[str, int]) -> frozenset[int]:
    numbers = (each if isinstance(each, int) else known.get(each) for each in named)
    return frozenset(number for number in numbers if number is not None)


def uids(names: Iterable[str]) -> dict[str, int]:
    """uid by name; names the host does not know are left out."""
    found = {}
    for name in names:
        try:
            found[name] = pwd.getpwnam(name).pw_uid
        except KeyError:
            continue
    return found


def gids(names: Iterable[str]) -> dict[str, int]:
    """gid by name; names the host does not know are left out."""
    found = {}
    for name in names:
        try:
            found[name] = grp.getgrnam(name).gr_gid
        except KeyError:
            continue
    return found


def with_clock(facts: HostFacts, clock: LicenseClock) -> HostFacts:
    """The same facts at another time."""
    return replace(facts, **clock_facts(clock))


class ClockFacts(TypedDict):
    """Part of HostFacts."""

    boot_offset_ns: int
    wall_offset_ns: int
    gathered_boot_ns: int
    clock_synced: bool


def clock_facts(clock: LicenseClock) -> ClockFacts:
    return ClockFacts(
        boot_offset_ns=clock.offset_ns,
        wall_offset_ns=clock.wall_offset_ns,
        gathered_boot_ns=boot_ns(),
        clock_synced=clock.is_confirmed,
    )
