"""Facts about this host that a policy needs, gathered with as few reads as possible."""

from __future__ import annotations

import time
from collections.abc import Iterable
from itertools import chain
from pathlib import Path

from agent.config import Settings
from agent.daemon.licensing.time import LicenseTime
from agent.kernel.tables.names import Names
from agent.model import HostFacts
from agent.observe.accounts import Accounts
from agent.observe.containers import Containers
from agent.observe.containers.cri import Cri
from agent.observe.containers.registry import Roots
from agent.observe.disk_look import DiskLook
from agent.observe.executables import Executables
from agent.observe.hostfacts import Mentions, gather
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.policy.values import Policy, Selector

_ON_DISK_S = 60.0


def selectors_of(policy: Policy) -> Iterable[Selector]:
    principals = chain.from_iterable(one.selectors for one in policy.principals.values())
    owners = chain.from_iterable(service.owner for service in policy.services.values())
    return chain(principals, owners)


def mentions_of(policy: Policy | None) -> Mentions:
    """Users, groups and executables that a policy names."""
    if policy is None:
        return Mentions()
    selectors = list(selectors_of(policy))
    excluded = [
        selector
        for name in {each.principal for each in policy.exclusions} & policy.principals.keys()
        for selector in policy.principals[name].selectors
    ]
    return Mentions(
        users=frozenset(chain.from_iterable(one.users for one in selectors)),
        groups=frozenset(chain.from_iterable(one.groups for one in selectors)),
        executables=frozenset(chain.from_iterable(one.exe for one in selectors)),
        units=frozenset(chain.from_iterable(one.units for one in selectors)),
        homes=frozenset(chain.from_iterable(one.at_containers for one in policy.services.values())),
        excluded_users=frozenset(chain.from_iterable((*one.users, *one.uids) for one in excluded)),
        excluded_groups=frozenset(chain.from_iterable((*one.groups, *one.gids) for one in excluded)),
    )


def containers_of(settings: Settings, cgroup_mount: Path) -> Containers:
    chosen = settings.containers
    roots = Roots(
        chosen.containerd,
        chosen.docker,
        chosen.storage,
        chosen.crun,
        chosen.runc,
        chosen.cni,
        chosen.netavark,
    )
    return Containers(roots, cgroup_mount, cri=Cri(chosen.cri))


class Host:
    """Gathers HostFacts. Each kind of fact is read again only if it may have changed."""

    def __init__(
        self,
        reader: ProcReader,
        namespaces: Namespaces,
        cgroup_mount: Path,
        hash_seed: int,
        license_time: LicenseTime,
        names: Names | None = None,
        containers: Containers | None = None,
        accounts: Accounts | None = None,
    ) -> None:
        """`names`: paths of the executables that the kernel has seen."""
        self._reader = reader
        self._namespaces = namespaces
        self._cgroup_mount = cgroup_mount
        self._hash_seed = hash_seed
        self._license_time = license_time
        self._names = names
        self._containers = containers
        self._accounts = accounts or Accounts()
        self._on_disk: tuple[Mentions, float, Executables] | None = None
        self._disk = DiskLook(reader.patience)

    def facts(self, policy: Policy | None) -> HostFacts:
        """Host facts as of now. Facts about files on disk are read once a minute, and after a link was
        switched."""
        mentions = mentions_of(policy)
        return gather(
            mentions,
            reader=self._reader,
            namespaces=self._namespaces,
            cgroup_mount=self._cgroup_mount,
            hash_seed=self._hash_seed,
            clock=self._license_time.look(),
            known_executables=self._names.trusted_paths() if self._names else frozenset(),
            on_disk=self._executables(mentions),
            containers=self._containers,
            accounts=self._accounts,
        )

    def links_switched(self) -> bool:
        """True if a path that the policy names now leads to another executable."""
        known = self._on_disk
        if known is None or not self._disk.switched(known[2].trails):
            return False
        self._on_disk = None
        return True

    def _executables(self, mentions: Mentions) -> Executables:
        now_s = time.monotonic()
        if self._on_disk is None or self._on_disk[0] != mentions or now_s > self._on_disk[1] + _ON_DISK_S:
            self._on_disk = (mentions, now_s, self._disk.find(mentions.executables))
        return self._on_disk[2]
