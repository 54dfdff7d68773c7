"""What a policy compiles to: the tables the kernel judges by, as plain values.

`compile_policy` makes them, `kernel.maps` writes them into BPF maps, `evaluate` reads them as the
kernel does (bpf/decide.h). A *clause* is one selector conjunction and owns one bit; a set of clauses
is an int used as a bit set (clause n is `1 << n`) and is stored once in `Tables.sets`, named by index.

For a local consumer, one set is looked up in each dimension and all are ANDed:

    exe     members[EXE, path hash], else members[EXE_DIR, hash of its directory] and the name is
            not certain, else sets[MISS + EXE] and the name is not certain. A path seen in an untrusted
            mount namespace looks up members[EXE, 1]; a task without an executable, members[EXE, 0]
    uid     members[UID, effective uid], else sets[MISS + UID]
    gid     sets[MISS + GID] ORed with members[GID, g] of every effective or supplementary gid
    cgroup  sets[MISS + CGROUP] ORed with members[CGROUP, id] of the cgroup and all its ancestors; the
            container is not certain if any of them has MEMBER_UNSURE
    netns   members[NETNS, cookie], else sets[MISS + NETNS] and the namespace is not certain

A set in members already contains the clauses that do not speak of its dimension; so does each MISS set.
What could also hold, were an uncertain dimension known, is contained in its MISS (or EXE_DIR) set; what
holds for certain is that AND `sets[CERTAIN + mask of the uncertain dimensions]`.

For a remote consumer the set is sources[longest prefix], else sets[MISS_SOURCE]; it is always certain.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum

from agent.model import Mode, Network, Reason, Target

SET_BITS = 1024
CANDIDATES = 8
MAX_PORT_ENTRIES = 4096
MAX_TARGETS = 4096
MAX_SETS = 16384
MAX_PATH_COMPONENTS = 24
"""Path components and mount crossings the kernel walks; a deeper executable stays unnamed."""


class Dimension(IntEnum):
    """Keys of `Tables.members`; the first five are the dimensions of a local consumer's set."""

    EXE = 0
    UID = 1
    GID = 2
    CGROUP = 3
    NETNS = 4
    EXE_DIR = 5
    CGROUP_PATH = 6
    """string_hash of a cgroup's path: the set a cgroup made there gets as members[CGROUP, id]."""
    CGROUP_NEW = 7
    """Of value 0: the set a cgroup made anywhere else gets. There only if the policy speaks of containers:
    whether it is one, and which, is unsure until user space has looked."""


MEMBER_UNSURE = 1 << 31
"""In a value of `Tables.members`, beside the number of the set: a cgroup that is, or may be, a container
whose name is not known yet."""


class SetId:
    """Sets with a fixed place in `Tables.sets`."""

    EMPTY = 0
    MISS = 1
    """MISS + Dimension (0 to 4)."""
    MISS_SOURCE = 6
    ALL = 7
    CERTAIN = 16
    """CERTAIN + mask of uncertain dimensions; bits are those of `Uncertain`."""
    FIRST_FREE = 48


class Uncertain:
    """Why a local consumer's set may be too large. Bits; values are the wire's (bpf/abi.h)."""

    EXE = 1
    GID = 2
    """More than 64 groups: the rest were not looked at."""
    CGROUP = 4
    """Deeper than 12 cgroup levels."""
    NETNS = 8
    CONTAINER = 16


@dataclass(frozen=True, slots=True)
class TargetKey:
    """One entry of the target table. netns is 0 for routable addresses."""

    netns: int
    protocol: int
    port: int
    network: Network


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
    unresolved_allowed: bool
    clock_synced: bool
    """False: nothing is denied as not_yet_valid; it is grace, clock_unsynced."""
    drops: bool
    """A SYN that is refused gets no answer, where the packet gate sees it."""
    excluded: int
    """Set id: clauses of all principals that are excluded from this target."""
    home_netns: int
    """The namespace the service lives in: a consumer there is `loopback`, elsewhere `container`."""
    candidates: tuple[Candidate, ...]


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
    seed: int
    targets: Mapping[TargetKey, int]
    rows: Mapping[int, TargetRow]
    members: Mapping[tuple[Dimension, int], int]
    """Set ids, in CGROUP and CGROUP_PATH perhaps with MEMBER_UNSURE."""
    sources: Mapping[Network, int]
    sets: tuple[int, ...]
    grants: Mapping[int, Grant] = field(default_factory=dict)
    owners: Mapping[int, TargetRow] = field(default_factory=dict)
    """By target id, where the service names its owners: who may serve it, as if that were licensed."""

    @property
    def ports(self) -> frozenset[int]:
        """Every port that anything declares, whatever the protocol."""
        return frozenset(key.port for key in self.targets)


NO_BOOT_NS = (1 << 64) - 1
"""A deadline that never comes."""


def empty_tables(seed: int = 0) -> Tables:
    """Tables of no policy at all: nothing is declared, so everything is unprotected."""
    return Tables(
        seed=seed, targets={}, rows={}, members={}, sources={}, sets=(0,) * SetId.FIRST_FREE, grants={}
    )
