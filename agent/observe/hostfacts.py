"""Gathers what compiling a policy needs to know of this host."""

from __future__ import annotations

import grp
import pwd
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.model import Container, HostFacts, Namespace
from agent.observe.addresses import own_addresses
from agent.observe.cgroup import list_cgroups, processes_in
from agent.observe.containers import Containers
from agent.observe.executables import Executables, find_executables, running_executables
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.policy.values import ContainerSelector


@dataclass(frozen=True, slots=True)
class Mentions:
    """What of the host a policy speaks of by name."""

    users: frozenset[str] = frozenset()
    groups: frozenset[str] = frozenset()
    executables: frozenset[str] = frozenset()
    """exe selectors: absolute paths and globs."""
    homes: frozenset[ContainerSelector] = frozenset()
    """Containers that a service is at."""


def gather(
    mentions: Mentions,
    *,
    reader: ProcReader,
    namespaces: Namespaces,
    cgroup_mount: Path,
    hash_seed: int,
    not_before_unix_s: float,
    known_executables: Iterable[str] = (),
    on_disk: Executables | None = None,
    containers: Containers | None = None,
) -> HostFacts:
    """The facts at this moment. `known_executables` are those the kernel has named so far;
    `not_before_unix_s` is the newest time known to have been (see `clock_synced`). With broad globs, looking
    for executables on disk takes 0.1 s and more: pass `on_disk` from an earlier look to leave it out.
    Raises KernelError."""
    own = namespaces.own()
    on_disk = on_disk or find_executables(mentions.executables)
    all_namespaces = namespaces.all()
    cgroups = list_cgroups(cgroup_mount)
    named = {path: one for path in cgroups if (one := containers.at(path))} if containers else {}
    return HostFacts(
        host_netns=own.cookie,
        addresses=own_addresses(),
        namespaces=tuple(one for one in all_namespaces if one.cookie != own.cookie),
        users=uids(mentions.users),
        groups=gids(mentions.groups),
        executables=on_disk.found | running_executables(reader) | frozenset(known_executables),
        realpaths=on_disk.realpaths,
        cgroups=cgroups,
        containers=named,
        container_netns=_homes(mentions, named, reader, cgroup_mount, (own, *all_namespaces)),
        boot_offset_ns=boot_offset_ns(),
        clock_synced=clock_synced(time.time(), not_before_unix_s),
        hash_seed=hash_seed,
    )


def _homes(
    mentions: Mentions,
    containers: Mapping[str, Container],
    reader: ProcReader,
    cgroup_mount: Path,
    namespaces: Iterable[Namespace],
) -> dict[str, int]:
    """The network namespace of each container that a service is at, by its oldest process; one that has no
    process yet is left out."""
    cookies = {one.inode: one.cookie for one in namespaces}
    found = {}
    for path, container in containers.items():
        if any(each.takes(container) for each in mentions.homes):
            inodes = (reader.netns_inode(pid) for pid in sorted(processes_in(cgroup_mount, path)))
            inode = next((inode for inode in inodes if inode), 0)
            if inode in cookies:
                found[path] = cookies[inode]
    return found


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


def boot_offset_ns() -> int:
    """Wall clock (UTC, ns since the epoch) minus CLOCK_BOOTTIME. It changes whenever the wall clock is
    set or slewed, by seconds as well as by nanoseconds."""
    before_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    wall_ns = time.clock_gettime_ns(time.CLOCK_REALTIME)
    after_ns = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    return wall_ns - (before_ns + after_ns) // 2


def clock_synced(now_unix_s: float, not_before_unix_s: float) -> bool:
    """False only where the wall clock is evidently wrong: earlier than a time that has already been.

    adjtimex(2)'s STA_UNSYNC is no help: it stands on every host whose time comes from its hypervisor or
    was set by hand, and would switch `not_yet_valid` off there for good."""
    return now_unix_s >= not_before_unix_s
