"""Judges by policy files alone, without a running agent. Shared by the commands that only read files.

Times count from the epoch (boot_offset_ns is 0), so a window that began before this boot is exact."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated

import typer

from agent.cli.running import settings_of
from agent.cli.time_here import JudgedAt
from agent.daemon.enforcement.confined_rights import running_inside
from agent.daemon.licensing.time import LicenseTime
from agent.daemon.policy_sync.host_facts import Host, containers_of, mentions_of
from agent.daemon.tracking.consumers import local_consumer
from agent.errors import KernelError, LicetError, PolicyErrors
from agent.model import Consumer, HostFacts, LocalConsumer, Process
from agent.observe.accounts import Accounts
from agent.observe.cgroup import find_mount, list_cgroups
from agent.observe.containers import Containers
from agent.observe.ephemeral import ephemeral_ports
from agent.observe.executables import find_executables, running_executables
from agent.observe.hostfacts import account_facts, gids, uids
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.units import units_at_rest
from agent.policy.decision import confined
from agent.policy.decision.question import NOBODY, Question, consumer_of
from agent.policy.document.load import find_policy_files, load_policy_files, ownership_findings, parse_sources
from agent.policy.tables.compile import Compiled, compile_policy
from agent.policy.tables.ids import Ids
from agent.policy.values import Finding, Policy
from agent.state_files import POLICY, last_good_policy

InForce = Annotated[
    bool, typer.Option("--in-force", help="Use the last good policy, even if the files are refused.")
]

HOST_NETNS = 1
"""A stand-in for the cookie of this host's network namespace."""
_OTHER_NETNS = 2
_MADE_UP = 3_000_000_000
"""The first id for users and groups that this machine lacks, so that a test holds on any machine."""


def policy_files(config: Path | None, files: Sequence[Path]) -> list[Path]:
    """The given files (for a directory, the policy files in it), or else those that the configuration
    names.

    Raises LicetError if there is none."""
    if files:
        found: list[Path] = []
        for file in files:
            found.extend(find_policy_files(file / "policy.yaml", file) if file.is_dir() else [file])
        found = list(dict.fromkeys(found))
    else:
        paths = settings_of(config).paths
        found = find_policy_files(paths.policy, paths.policy_dir)
        files = (paths.policy, paths.policy_dir)
    if not found:
        raise LicetError(f"no policy file at {' or '.join(map(str, files))}: write one, or give a file")
    return found


def not_only_roots(config: Path | None, files: Sequence[Path]) -> list[Finding]:
    """Findings about policy files that a user other than root could write: of the given files, or else of
    the paths that the configuration names. The daemon refuses such files, or warns if only a group can
    write them."""
    paths = settings_of(config).paths
    places = files or [paths.policy, paths.policy_dir, *find_policy_files(paths.policy, paths.policy_dir)]
    refused, warned = ownership_findings(places)
    return [*refused, *warned]


def load(config: Path | None, files: Sequence[Path], at: JudgedAt, *, in_force: bool = False) -> Policy:
    """Load the policy. `at`: what has ended by then takes no room. `in_force`: the last good policy, which
    the daemon uses while its files are refused.

    Raises LicetError. If files are refused, the message names the option that shows the policy in force."""
    if in_force:
        return _last_good(config, files, at)
    try:
        return load_policy_files(policy_files(config, files), at.time)
    except PolicyErrors as error:
        if not files and os.path.exists(settings_of(config).paths.state / POLICY):
            hint = "while these files are refused, the daemon uses the last good policy: see --in-force"
            raise PolicyErrors(error.errors, hint) from error
        raise


def _last_good(config: Path | None, files: Sequence[Path], at: JudgedAt) -> Policy:
    if files:
        raise LicetError("--in-force shows the policy of the daemon: do not give a file with it")
    folder = settings_of(config).paths.state
    stored = last_good_policy(folder)
    if not stored:
        raise LicetError(f"{folder}: no policy has been in force on this host yet")
    return parse_sources(stored, at.time)


def host_facts(policy: Policy) -> HostFacts:
    """The host facts that the policy mentions: users, groups and files, but no running processes."""
    mentions = mentions_of(policy)
    on_disk = find_executables(mentions.executables)
    return HostFacts(
        host_netns=HOST_NETNS,
        addresses=(),
        **account_facts(mentions, Accounts()),
        executables=on_disk.found,
        for_anybody=on_disk.for_anybody,
        realpaths=on_disk.realpaths,
        scripts=on_disk.scripts,
        ephemeral=ephemeral_ports(),
        gathered_boot_ns=time.time_ns(),
    )


def facts_here(config: Path | None, policy: Policy) -> HostFacts:
    """The host facts as the daemon sees them, including running processes. Facts that only root can read
    are left out for other users."""
    settings = settings_of(config)
    try:
        mount = find_mount()
    except KernelError:
        return host_facts(policy)
    reader = ProcReader(settings.paths.proc, cgroup_mount=mount)
    namespaces, containers = Namespaces(reader, settings.scope.namespaces), containers_of(settings, mount)
    accounts = Accounts(settings.paths.etc)
    license_time = LicenseTime(settings.paths.state)
    host = Host(reader, namespaces, mount, 0, license_time, containers=containers, accounts=accounts)
    try:
        return host.facts(policy)
    except KernelError:
        cgroups = list_cgroups(mount)
    facts, units = host_facts(policy), mentions_of(policy).units
    return replace(
        facts,
        executables=facts.executables | running_executables(reader),
        cgroups=cgroups,
        containers={path: one for path in cgroups if (one := containers.at(path))},
        units_at_rest=units_at_rest(units, cgroups, mount),
    )


@dataclass(frozen=True, slots=True)
class Bench:
    """A compiled policy and the consumers to judge. Both use the same ids, real or made up."""

    policy: Policy
    compiled: Compiled
    consumers: Sequence[Consumer]


def answer_questions(policy: Policy, questions: Sequence[Question], at: JudgedAt) -> Bench:
    """Compile the policy for these questions. Users and groups that this machine lacks get made-up ids.
    The programs and cgroups in the questions count as known, so no answer is `unresolved` only because
    nothing runs."""
    facts = replace(host_facts(policy), wall_offset_ns=at.wall_lead_ns)
    user_names = {each.user for each in questions if isinstance(each.user, str)} | mentions_of(policy).users
    group_names = {group for each in questions for group in each.groups if isinstance(group, str)}
    users = _numbered(user_names, uids(user_names))
    group_names |= mentions_of(policy).groups
    groups = _numbered(group_names, gids(group_names))
    consumers = [consumer_of(question, users, groups, HOST_NETNS) for question in questions]
    containers = {each.cgroups[0]: each.container for each in questions if each.container}
    known = replace(_knowing(facts, consumers, users, groups), containers=containers)
    return Bench(policy, compile_policy(policy, known, Ids(), at.time), consumers)


def named_containers(config: Path | None) -> Containers | None:
    """The containers of this host; None if cgroups cannot be read."""
    try:
        return containers_of(settings_of(config), find_mount())
    except KernelError:
        return None


def answer_process(
    policy: Policy,
    reader: ProcReader,
    process: Process,
    at: JudgedAt,
    containers: Containers | None = None,
) -> Bench:
    """Compile the policy for a running process. The addresses of another network namespace are not looked
    up here. A process in one is therefore unresolved where a CIDR matters."""
    here = reader.netns_inode(os.getpid()) == reader.netns_inode(process.pid)
    consumer = replace(
        local_consumer(process, HOST_NETNS if here else _OTHER_NETNS),
        exe=process.exe,
        uid=NOBODY if process.uid is None else process.uid,
    )
    facts = replace(host_facts(policy), wall_offset_ns=at.wall_lead_ns)
    known = _knowing(facts, [consumer], facts.users, facts.groups)
    if containers:
        found = {path: one for path in consumer.cgroups if (one := containers.at(path))}
        given = (path for path in consumer.cgroups if not containers.only_root_makes(path))
        delegated = frozenset(path.rpartition("/")[0] or "/" for path in given)
        known = replace(known, containers=found, delegated=delegated)
    return Bench(policy, compile_policy(policy, known, Ids(), at.time), [consumer])


def rights_lost(policy: Policy, compiled: Compiled, host_netns: int, config: Path | None) -> list[Finding]:
    """Findings about principals and owners that no longer match a process because it runs in a container
    here."""
    containers = named_containers(config)
    reader = ProcReader(container_of=containers.containing) if containers else ProcReader()
    own = reader.netns_inode(os.getpid())
    return confined.rights_lost(policy, compiled, host_netns, running_inside(reader, {own: host_netns}))


def groups_of_user(user: str | int) -> tuple[int, ...]:
    """Primary and supplementary groups, as at a login of the user; empty for a user not known on this
    host."""
    try:
        entry = pwd.getpwuid(user) if isinstance(user, int) else pwd.getpwnam(user)
    except (KeyError, OverflowError):
        return ()
    return tuple(os.getgrouplist(entry.pw_name, entry.pw_gid))


def with_groups(question: Question) -> Question:
    """The question with the groups of its user, unless groups are given."""
    if question.user is None or question.groups:
        return question
    return replace(question, groups=groups_of_user(question.user))


def _numbered(names: Iterable[str], known: Mapping[str, int]) -> dict[str, int]:
    return {name: known.get(name, _MADE_UP + index) for index, name in enumerate(sorted(names))}


def _knowing(
    facts: HostFacts, consumers: Sequence[Consumer], users: Mapping[str, int], groups: Mapping[str, int]
) -> HostFacts:
    local = [consumer for consumer in consumers if isinstance(consumer, LocalConsumer)]
    paths = sorted({path for consumer in local for path in consumer.cgroups})
    return replace(
        facts,
        users=users,
        groups=groups,
        executables=facts.executables | {consumer.exe for consumer in local if consumer.exe},
        cgroups={path: number for number, path in enumerate(paths, start=1)},
    )
