"""The tables from which the kernel decides, as plain values.

`compile_policy` makes them, agent/kernel writes them into BPF maps, and `evaluate` reads them as the
kernel does (bpf/lib/decide.h). A *clause* is one selector conjunction and owns one bit. A set of clauses
is an int used as a bit set (clause n is `1 << n`). Each set is stored once in `Tables.sets`; its index
names it.

For a local consumer, one set is looked up in each dimension, and all are ANDed:

    exe     members[EXE, path hash], else members[EXE_DIR, hash of its directory], else
            sets[MISS + EXE]. The latter two are ORed with members[EXE_GLOB, …] of every glob with one
            star that matches the path, and the executable is uncertain. A path seen in an untrusted
            mount namespace, or deeper than the walk goes, looks up members[EXE, 1]. A task without an
            executable looks up members[EXE, 0]
    uid     members[UID, effective uid], else sets[MISS + UID]
    gid     sets[MISS + GID] ORed with members[GID, g] of every effective or supplementary gid
    cgroup  sets[MISS + CGROUP] ORed with members[CGROUP, id] of the cgroup and its ancestors, down to the
            12th level. The container is uncertain if any of them has MEMBER_UNSURE. The unit is
            uncertain if any has MEMBER_UNSURE_UNIT. In a container (MEMBER_CONTAINER, or a pid namespace
            of root's that is not the host's), sets[ANY_CONTAINER] is ORed, too
    netns   members[NETNS, cookie], else sets[MISS + NETNS], and the namespace is uncertain

Further sets are ANDed: in a container, sets[IN_CONTAINER]; for an executable whose path does not begin at the
host's root, sets[ELSEWHERE].

In a user namespace, the sets of its owner and of the owners of those around it are ORed: members[OWNER_UID,
uid] to the set by uid; members[OWNER_GID, gid] and members[OWNER_MEMBER, uid] to the set by gid. In the same
way, subordinates[UID, longest prefix] and subordinates[GID, …] are ORed. They are looked up by the uid of the
outermost namespace's owner; outside user namespaces, by the effective uid.

A set in members already contains the clauses that do not constrain its dimension, and so does each MISS set.
The MISS (or EXE_DIR) set also contains the clauses that could hold if an uncertain dimension were known. The
clauses that certainly hold are the result AND `sets[CERTAIN + mask of the uncertain dimensions]`.

For a remote consumer the set is sources[longest prefix], else sets[MISS_SOURCE]. It is always certain.

The target of a destination is targets[namespace, protocol, number of its port, longest prefix]. Ports with
the same targets at the same places share one number, so a range costs one entry for each place.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from agent.model import Address, Mode, Network, Reason, Target
from agent.policy.terms.cgroups import NOTHING_KNOWN, Ground
from agent.policy.terms.ports import Ports
from agent.policy.values import Unresolved

SET_BITS = 1024
CANDIDATES = 8
MAX_PORT_ENTRIES = 4096
"""Limit of ports and ranges in all services. A range counts once for each piece that others cut it into."""
MAX_PLACES = 262144
"""Limit of entries in the target table. An entry is a number of ports at an address or network."""
MAX_TARGETS = 4096
MAX_SETS = 16384
MAX_CGROUPS = 12
"""Levels of cgroups that the kernel walks. A deeper cgroup counts as its ancestor at the last level."""
MAX_SHAPES = 16
"""Limit of distinct shapes of globs with one star, in one policy."""
MAX_PATH_COMPONENTS = 24
"""Path components and mount crossings that the kernel walks. No selector matches a deeper executable."""
LISTED_GROUPS = 64
"""Limit of groups that one target can name."""
GIDS_IN_SET = 32
NO_GID = (1 << 32) - 1
"""Fills up a list of groups: no process can hold this gid (setgroups(2))."""


class Dimension(IntEnum):
    """Keys of `Tables.members`; the first five are the dimensions of a local consumer's set."""

    EXE = 0
    UID = 1
    GID = 2
    CGROUP = 3
    NETNS = 4
    EXE_DIR = 5
    CGROUP_PATH = 6
    """string_hash of a cgroup's path: the set that a cgroup created there gets as members[CGROUP, id]. This,
    UNIT and UNIT_TEMPLATE apply only to this host's own cgroups: every directory above is root's alone, and
    none is a container's."""
    CGROUP_NEW = 7
    """With value 0: the set that a cgroup created anywhere else gets. Whether it is a container, and which,
    is unsure until user space has checked it."""
    CGROUP_HOST = 8
    """With value 0, and with the id of the cgroup that the agent takes for its host's root. Cgroups above and
    beside it are another host's."""
    OWNER_UID = 9
    """By owner of a user namespace: clauses that hold for processes in it. Exclusions only."""
    OWNER_GID = 10
    CGROUP_GIVEN = 11
    """Like CGROUP_PATH, for a cgroup that users other than root could have created, or that is in a
    container. Only clauses with that path hold."""
    UNIT = 12
    """string_hash of the name of a unit's cgroup: the set for one created anywhere else."""
    UNIT_TEMPLATE = 13
    """template_hash of app@*.service: the set for an instance without an entry in UNIT."""
    EXE_SHAPE = 14
    """By number from 0: the word of a Shape, not a set."""
    EXE_GLOB = 15
    """shape_hash of a glob with one star: the clauses that it adds."""
    OWNER_MEMBER = 16
    """By uid of a user namespace's owner: clauses that hold because of that owner's groups."""


ASKS_SUBORDINATE = 29
"""A flag in a row's mask of dimensions: it matters whether a uid is a subordinate id of another user."""
ASKS_CONTAINER = 30
"""The same: it matters whether a process is in a container."""
ASKS_USER_NAMESPACE = 31

MEMBER_UNSURE = 1 << 31
"""A flag in a value of `Tables.members`, beside the number of the set. The cgroup is, or may be, a container
whose name is not known yet."""
MEMBER_CONTAINER = 1 << 30
"""The same: the cgroup is the top of a container, and only root could have created it."""
MEMBER_UNSURE_UNIT = 1 << 29
"""The same: a unit's cgroup below one that user space has not checked. If that one is a container, this one
is not a unit."""
MEMBER_FLAGS = MEMBER_UNSURE | MEMBER_CONTAINER | MEMBER_UNSURE_UNIT


class SetId(IntEnum):
    """Sets with a fixed place in `Tables.sets`."""

    EMPTY = 0
    MISS = 1
    """MISS + Dimension (0 to 4)."""
    MISS_SOURCE = 6
    ALL = 7
    IN_CONTAINER = 8
    """Clauses that may hold for a process in a container."""
    ELSEWHERE = 9
    """Clauses that may hold for an executable that is not a file of the host: its path begins at another
    root."""
    ANY_CONTAINER = 10
    """Clauses that hold in any container, known or not."""
    OWNED = 11
    """Clauses that hold in user namespaces because of an owner. Used for those nested too deeply to know the
    owner (MAX_OWNERS)."""
    SUBORDINATE = 12
    """Clauses that hold for subordinate ids. If a row uses none of them, no lookup is made."""
    CERTAIN = 16
    """CERTAIN + mask of uncertain dimensions; bits are those of `Uncertain`."""
    FIRST_FREE = 80


class Uncertain(IntEnum):
    """Why a local consumer's set may be too large. Bits; values are the wire's (bpf/abi.h)."""

    EXE = 1
    """It depends on a glob that only user space can match."""
    PATH = 2
    """The executable's path is unknown."""
    CGROUP = 4
    """Whether it is a unit depends on a cgroup that user space has not checked."""
    NETNS = 8
    CONTAINER = 16
    """Which container it is."""
    ANY_CONTAINER = 32
    """Whether it is a container."""


DELIVERED = Network((1 << 128) - 1)
"""Address of a TargetKey for whatever is delivered in its namespace and has no entry of its own. No real
address of a namespace is looked up this way (bpf/lib/delivery.h)."""


@dataclass(frozen=True, slots=True)
class TargetKey:
    """One entry of the target table. netns is 0 for routable addresses."""

    netns: int
    protocol: int
    ports: int
    """The number of the ports: see `Numbered`."""
    network: Network


@dataclass(frozen=True, slots=True)
class SubordinateKey:
    """The uids that share their first `prefixlen` of 32 bits with `first`. dimension UID: clauses that name
    the user who has these ids. GID: clauses that name a group of that user."""

    dimension: Dimension
    first: int
    prefixlen: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """A range of ports, both ends included, and its number in TargetKeys, which is never 0."""

    first: int
    last: int
    number: int


@dataclass(frozen=True, slots=True)
class Candidate:
    """One grant as the kernel sees it. Allowed from `from_ns` until before `ends_ns`, in grace from
    `expires_ns` on; all CLOCK_BOOTTIME. `state` is a license-state reason that denies, or 0."""

    grant: int
    principal: int
    state: Reason | int
    from_ns: int
    expires_ns: int
    ends_ns: int


@dataclass(frozen=True, slots=True)
class TargetRow:
    id: int
    target: Target
    mode: Mode
    unresolved: Unresolved
    clock_synced: bool
    """False: a license that would be not_yet_valid gives grace, clock_unsynced, instead of a denial."""
    drops: bool
    """A refused SYN gets no answer, if the packet gate sees it."""
    excluded: int
    """Set id: clauses of all principals that are excluded from this target."""
    home_netns: int
    """The namespace the service lives in. A consumer there is `loopback`, elsewhere `container`."""
    candidates: tuple[Candidate, ...]
    gid_list: int = 0
    """Number of the first of two sets that hold a list: the groups that this row's clauses name. For a
    consumer with more than 64 groups, only these are looked up."""


@dataclass(frozen=True, slots=True)
class Grant:
    """The meaning of a grant id, to name the rule that decided. Documents of one license share it."""

    id: int
    license: str
    entitlement: str
    principal: str
    target: Target


@dataclass(frozen=True, slots=True)
class Tables:
    """A compiled policy: what the kernel's maps hold, and what Python decides by."""

    seed: int
    targets: Mapping[TargetKey, int]
    rows: Mapping[int, TargetRow]
    members: Mapping[tuple[Dimension, int], int]
    """Set ids; in CGROUP and CGROUP_PATH possibly with MEMBER_FLAGS."""
    sources: Mapping[Network, int]
    sets: tuple[int, ...]
    grants: Mapping[int, Grant] = field(default_factory=dict)
    owners: Mapping[int, TargetRow] = field(default_factory=dict)
    """By target id, if the service names its owners: who may serve it, in the form of a license."""
    elsewhere: frozenset[tuple[int, Address]] = frozenset()
    """(namespace, address): the route is local, but nothing is delivered there."""
    ground: Ground = NOTHING_KNOWN
    """Facts by which the kernel classifies each cgroup when it is created."""
    subordinates: Mapping[SubordinateKey, int] = field(default_factory=dict)
    """By disjoint blocks: for exclusions only."""
    numbers: tuple[Numbered, ...] = ()
    """Disjoint, in the order of ports. They depend on the policy alone, not on where its services are now."""

    @property
    def ports(self) -> Ports:
        """Every port that any service declares, whatever the protocol."""
        somewhere = {key.ports for key in self.targets}
        return Ports.of(one for one in self.numbers if one.number in somewhere)

    def number_of(self, port: int) -> int:
        """0: no service declares it."""
        place = bisect_right(self.numbers, port, key=lambda one: one.first) - 1
        found = self.numbers[place] if place >= 0 else None
        return found.number if found and port <= found.last else 0


NO_BOOT_NS = (1 << 64) - 1
"""A deadline that never comes."""


def empty_tables(seed: int = 0) -> Tables:
    """Tables without a policy: no port is declared, so all traffic is unprotected."""
    return Tables(
        seed=seed, targets={}, rows={}, members={}, sources={}, sets=(0,) * SetId.FIRST_FREE, grants={}
    )
