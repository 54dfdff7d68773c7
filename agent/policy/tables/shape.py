"""What a policy compiles to: the tables the kernel judges by, as plain values.

`compile_policy` makes them, `kernel.maps` writes them into BPF maps, `evaluate` reads them as the
kernel does (bpf/lib/decide.h). A *clause* is one selector conjunction and owns one bit; a set of clauses
is an int used as a bit set (clause n is `1 << n`) and is stored once in `Tables.sets`, named by index.

For a local consumer, one set is looked up in each dimension and all are ANDed:

    exe     members[EXE, path hash], else members[EXE_DIR, hash of its directory], else
            sets[MISS + EXE]; the latter two ORed with members[EXE_GLOB, …] of every glob with one
            star that takes the path, and then the name is not certain. A path seen in an untrusted
            mount namespace, or deeper than the walk goes, looks up members[EXE, 1]; a task without an
            executable, members[EXE, 0]
    uid     members[UID, effective uid], else sets[MISS + UID]
    gid     sets[MISS + GID] ORed with members[GID, g] of every effective or supplementary gid
    cgroup  sets[MISS + CGROUP] ORed with members[CGROUP, id] of the cgroup and its ancestors, down to the
            12th level; the container is not certain if any of them has MEMBER_UNSURE, nor the unit with
            MEMBER_UNSURE_UNIT; in a container (MEMBER_CONTAINER, or a pid namespace of root's that is not
            the host's), sets[ANY_CONTAINER], too
    netns   members[NETNS, cookie], else sets[MISS + NETNS] and the namespace is not certain

Beside those: in a container, sets[IN_CONTAINER]; of an executable whose path does not begin at the host's
root, sets[ELSEWHERE]. In a user namespace, members[OWNER_UID, …] and members[OWNER_GID, …] of its owner and
of the owners of those around it are ORed to the sets by uid and by gid; to the latter also
members[OWNER_MEMBER, …] of their uids. Likewise subordinates[UID, longest prefix] and subordinates[GID, …] of
the uid of the outermost one's owner; outside user namespaces, of the effective uid.

A set in members already contains the clauses that do not speak of its dimension; so does each MISS set.
What could also hold, were an uncertain dimension known, is contained in its MISS (or EXE_DIR) set; what
holds for certain is that AND `sets[CERTAIN + mask of the uncertain dimensions]`.

For a remote consumer the set is sources[longest prefix], else sets[MISS_SOURCE]; it is always certain.

The target of a destination is targets[namespace, protocol, number of its port, longest prefix]. Ports with
the same targets at the same places have one number, so that a range costs one entry for each place.
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
"""Ports and ranges of all services; a range counts once for each piece that others cut it into."""
MAX_PLACES = 262144
"""Entries of the target table: a number of ports at an address or network."""
MAX_TARGETS = 4096
MAX_SETS = 16384
MAX_CGROUPS = 12
"""Levels of cgroups that the kernel looks at; one below is what its ancestor at the last of them is."""
MAX_SHAPES = 16
"""Of globs with one star, in one policy."""
MAX_PATH_COMPONENTS = 24
"""Path components and mount crossings the kernel walks; no selector takes a deeper executable."""
LISTED_GROUPS = 64
"""Groups that one target can speak of."""
GIDS_IN_SET = 32
NO_GID = (1 << 32) - 1
"""Fills up a list of groups: nobody can hold it (setgroups(2))."""


class Dimension(IntEnum):
    """Keys of `Tables.members`; the first five are the dimensions of a local consumer's set."""

    EXE = 0
    UID = 1
    GID = 2
    CGROUP = 3
    NETNS = 4
    EXE_DIR = 5
    CGROUP_PATH = 6
    """string_hash of a cgroup's path: the set a cgroup made there gets as members[CGROUP, id]. This, UNIT and
    UNIT_TEMPLATE only where it is this host's own: every directory above is root's alone, and none is a
    container's."""
    CGROUP_NEW = 7
    """Of value 0: the set a cgroup made anywhere else gets. Whether it is a container, and which, is unsure
    until user space has looked."""
    CGROUP_HOST = 8
    """Of value 0 and of the id of the cgroup that the agent takes for its host's root: what lies above, and
    beside it, is another host's."""
    OWNER_UID = 9
    """Of a user namespace: what holds for whoever is in one that this user owns. Exclusions only."""
    OWNER_GID = 10
    CGROUP_GIVEN = 11
    """As CGROUP_PATH, for a cgroup that others than root could have made, or that is in a container: only
    what the policy says of its path holds."""
    UNIT = 12
    """string_hash of the name of a unit's cgroup: the set of one made anywhere else."""
    UNIT_TEMPLATE = 13
    """template_hash of app@*.service: the set of an instance that UNIT does not have."""
    EXE_SHAPE = 14
    """By number from 0: the word of a Shape, no set."""
    EXE_GLOB = 15
    """shape_hash of a glob with one star: the clauses that it adds."""
    OWNER_MEMBER = 16
    """Of a user namespace, by its owner's uid: what holds because of groups that he is a member of."""


ASKS_SUBORDINATE = 29
"""In a row's mask of dimensions: whether a uid is one of somebody's subordinate ids matters."""
ASKS_CONTAINER = 30
"""The same: whether a process is in a container."""
ASKS_USER_NAMESPACE = 31

MEMBER_UNSURE = 1 << 31
"""In a value of `Tables.members`, beside the number of the set: a cgroup that is, or may be, a container
whose name is not known yet."""
MEMBER_CONTAINER = 1 << 30
"""The same: a cgroup that is the top of a container which only root could have made."""
MEMBER_UNSURE_UNIT = 1 << 29
"""The same: a unit's cgroup below one that nobody has looked at. If that is a container, it is no unit."""
MEMBER_FLAGS = MEMBER_UNSURE | MEMBER_CONTAINER | MEMBER_UNSURE_UNIT


class SetId:
    """Sets with a fixed place in `Tables.sets`."""

    EMPTY = 0
    MISS = 1
    """MISS + Dimension (0 to 4)."""
    MISS_SOURCE = 6
    ALL = 7
    IN_CONTAINER = 8
    """What may hold for a process in a container."""
    ELSEWHERE = 9
    """What may hold for an executable that is no file of the host's: its path begins at another root."""
    ANY_CONTAINER = 10
    """What holds in whatever container, known or not."""
    OWNED = 11
    """What holds in user namespaces of somebody, as in those too deep to know of whom (MAX_OWNERS)."""
    SUBORDINATE = 12
    """What holds for subordinate ids of somebody: where a row speaks of none of it, nothing is looked up."""
    CERTAIN = 16
    """CERTAIN + mask of uncertain dimensions; bits are those of `Uncertain`."""
    FIRST_FREE = 80


class Uncertain:
    """Why a local consumer's set may be too large. Bits; values are the wire's (bpf/abi.h)."""

    EXE = 1
    """Whether a glob that only user space can tell takes it."""
    PATH = 2
    """Which executable it is at all."""
    CGROUP = 4
    """Whether it is a unit depends on a cgroup that nobody has looked at."""
    NETNS = 8
    CONTAINER = 16
    """Which one."""
    ANY_CONTAINER = 32
    """Whether it is one."""


DELIVERED = Network((1 << 128) - 1)
"""Of a TargetKey: what is delivered in its namespace and has no entry of its own, whatever its address is. No
real address of a namespace is looked up there (bpf/lib/delivery.h)."""


@dataclass(frozen=True, slots=True)
class TargetKey:
    """One entry of the target table. netns is 0 for routable addresses."""

    netns: int
    protocol: int
    ports: int
    """Their number."""
    network: Network


@dataclass(frozen=True, slots=True)
class SubordinateKey:
    """The uids that share their first `prefixlen` of 32 bits with `first`. dimension UID: clauses that name
    the user who was given them; GID: those that name a group of his."""

    dimension: Dimension
    first: int
    prefixlen: int


@dataclass(frozen=True, slots=True)
class Numbered:
    """Ports, both ends included, and the number by which TargetKeys speak of them. It is never 0."""

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
    """False: nothing is denied as not_yet_valid; it is grace, clock_unsynced."""
    drops: bool
    """A SYN that is refused gets no answer, where the packet gate sees it."""
    excluded: int
    """Set id: clauses of all principals that are excluded from this target."""
    home_netns: int
    """The namespace the service lives in: a consumer there is `loopback`, elsewhere `container`."""
    candidates: tuple[Candidate, ...]
    gid_list: int = 0
    """Number of the first of two sets that are a list: the groups that anything in this row speaks of. Of a
    consumer with more than 64 groups, only these are looked for."""


@dataclass(frozen=True, slots=True)
class Grant:
    """What a grant id stands for, to name the rule that decided."""

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
    """Set ids, in CGROUP and CGROUP_PATH perhaps with MEMBER_FLAGS."""
    sources: Mapping[Network, int]
    sets: tuple[int, ...]
    grants: Mapping[int, Grant] = field(default_factory=dict)
    owners: Mapping[int, TargetRow] = field(default_factory=dict)
    """By target id, where the service names its owners: who may serve it, as if that were licensed."""
    elsewhere: frozenset[tuple[int, Address]] = frozenset()
    """(namespace, address): local by its route, and not delivered there."""
    ground: Ground = NOTHING_KNOWN
    """By which the kernel has decided of each cgroup, at its making, whose it is."""
    subordinates: Mapping[SubordinateKey, int] = field(default_factory=dict)
    """Of disjoint blocks: for exclusions only."""
    numbers: tuple[Numbered, ...] = ()
    """Disjoint, in the order of ports. Those of the policy alone, wherever its services are now."""

    @property
    def ports(self) -> Ports:
        """Every port that anything declares somewhere, whatever the protocol."""
        somewhere = {key.ports for key in self.targets}
        return Ports.of(one for one in self.numbers if one.number in somewhere)

    def number_of(self, port: int) -> int:
        """0: nothing declares it."""
        place = bisect_right(self.numbers, port, key=lambda one: one.first) - 1
        found = self.numbers[place] if place >= 0 else None
        return found.number if found and port <= found.last else 0


NO_BOOT_NS = (1 << 64) - 1
"""A deadline that never comes."""


def empty_tables(seed: int = 0) -> Tables:
    """Tables of no policy at all: nothing is declared, so everything is unprotected."""
    return Tables(
        seed=seed, targets={}, rows={}, members={}, sources={}, sets=(0,) * SetId.FIRST_FREE, grants={}
    )
