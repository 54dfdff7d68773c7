"""The frozen domain types every part of licet speaks in.

Addresses are `ipaddress.IPv6Address` throughout, IPv4 as its mapped form (::ffff:a.b.c.d), because
that is how the kernel side keys everything. Times are nanoseconds of CLOCK_BOOTTIME, named `_boot_ns`,
unless a name says otherwise. Ports are in host byte order.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

Address = ipaddress.IPv6Address
Network = ipaddress.IPv6Network

MAPPED_PREFIX = 0xFFFF << 32
MEMFD = "memfd:"
"""Instead of the path of a program that has none (memfd_create(2)): its name is its process's alone."""


def to_address(text: str | ipaddress.IPv4Address | ipaddress.IPv6Address) -> Address:
    """The 16-byte form of an IPv4 or IPv6 address. Raises ValueError on anything else."""
    address = ipaddress.ip_address(text) if isinstance(text, str) else text
    if isinstance(address, ipaddress.IPv4Address):
        return ipaddress.IPv6Address(MAPPED_PREFIX | int(address))
    return address


def to_network(text: str | ipaddress.IPv4Network | ipaddress.IPv6Network) -> Network:
    """The 16-byte form of a CIDR: 10.0.0.0/8 is ::ffff:10.0.0.0/104. Raises ValueError."""
    network = ipaddress.ip_network(text, strict=True) if isinstance(text, str) else text
    if isinstance(network, ipaddress.IPv4Network):
        base = MAPPED_PREFIX | int(network.network_address)
        return ipaddress.IPv6Network((base, 96 + network.prefixlen))
    return network


def show_time(moment: datetime, timespec: str = "auto") -> str:
    """RFC 3339, in UTC: 2027-01-01T00:00:00Z. `timespec` as of datetime.isoformat()."""
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def show_address(address: Address) -> str:
    """The form people write: 10.0.0.1 rather than ::ffff:10.0.0.1."""
    return str(address.ipv4_mapped or address)


def show_endpoint(address: Address, port: int, protocol: Protocol) -> str:
    """10.0.0.1:80/tcp or [::1]:80/tcp."""
    shown = show_address(address)
    where = f"[{shown}]" if ":" in shown else shown
    return f"{where}:{port}/{protocol.name.lower()}"


def show_network(network: Network) -> str:
    """The CIDR as people write it; ::ffff:0:0/96 is 0.0.0.0/0."""
    mapped = network.network_address.ipv4_mapped
    if mapped is None or network.prefixlen < 96:
        return str(network)
    return f"{mapped}/{network.prefixlen - 96}"


class PortClass(StrEnum):
    PUBLIC = "public"
    INTERNAL = "internal"
    ADMIN = "admin"


class Protocol(IntEnum):
    """IP protocol numbers; MPTCP sockets are judged as TCP."""

    TCP = 6
    UDP = 17


class Decision(IntEnum):
    """Values are the wire's (bpf/abi.h)."""

    ALLOWED = 0
    GRACE = 1
    OVERAGE = 2
    DENIED = 3


class Reason(IntEnum):
    """Why a decision is what it is. The order of the denied ones is the order they are looked at.

    Values are the wire's (bpf/abi.h): the higher, the further a candidate got.
    """

    LICENSED = 0
    EXCLUDED = 1
    NO_LICENSE = 2
    UNLICENSED_PRINCIPAL = 3
    UNRESOLVED = 4
    CHECKOUT_REQUIRED = 5
    MALFORMED = 6
    BAD_SIGNATURE = 7
    UNKNOWN_KEY = 8
    REVOKED = 9
    SUPERSEDED = 10
    NODE_MISMATCH = 11
    CLOCK_ROLLBACK = 12
    NOT_YET_VALID = 13
    EXPIRED = 14
    MAX_EXCEEDED = 15
    SEATS_EXCEEDED = 16
    POOL_UNREACHABLE = 17
    CLOCK_UNSYNCED = 18


class ListenerState(StrEnum):
    """What a listener is, judged against the policy. The last three are reasons of a violation."""

    DECLARED = "declared"
    OWNER_UNKNOWN = "owner_unknown"
    """The policy says who may serve it, and who does is not known (well enough)."""
    UNDECLARED = "undeclared_listener"
    OWNER_MISMATCH = "owner_mismatch"
    EXPOSED = "exposed_port"


class Origin(IntEnum):
    """Where a consumer is: the service's own namespace, another one of this host, or elsewhere."""

    LOOPBACK = 0
    CONTAINER = 1
    REMOTE = 2


class Mode(StrEnum):
    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One service × port class, the unit that is judged and counted. Written service/class."""

    service: str
    port_class: PortClass

    def __str__(self) -> str:
        return f"{self.service}/{self.port_class}"


@dataclass(frozen=True, slots=True)
class Container:
    """A container as its runtime knows it. Empty strings stand for "not known"; `known` is False where the
    runtime's state has not been found (yet)."""

    id: str
    runtime: str = ""
    """docker, containerd, cri-o, podman, crun, runc, lxc, systemd-nspawn, libvirt-lxc, garden or buildkit."""
    name: str = ""
    image: str = ""
    pod: str = ""
    namespace: str = ""
    known: bool = False

    @property
    def label(self) -> str:
        """The name, else the id as short as docker shows it."""
        return self.name or self.id[:12]


INIT = 1
"""The pid of the host's service manager."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as far as it is known. Empty strings, zeros and empty tuples stand for "not known".

    pid is the thread group id in the initial pid namespace; pid alone is no identity (it is reused),
    so `start_boot_ns` (start_boottime of the group leader, as in /proc/PID/stat field 22) goes with it.
    uid and gid are the effective ones. cgroup is the cgroup2 path, e.g. /system.slice/nginx.service.
    netns is the network namespace's cookie (SO_NETNS_COOKIE).
    """

    pid: int = 0
    start_boot_ns: int = 0
    comm: str = ""
    exe: str = ""
    args: tuple[str, ...] = ()
    uid: int | None = None
    user: str = ""
    gid: int | None = None
    gids: tuple[int, ...] = ()
    cgroup_id: int = 0
    cgroup: str = ""
    unit: str = ""
    container: Container | None = None
    netns: int = 0
    exe_untrusted: bool = False
    """The path was seen in a mount namespace made without privilege: it proves nothing."""
    in_pid_namespace: bool = False
    """In a pid namespace of root's that is not the host's. This and the next two are known of processes that
    /proc was asked about."""
    exe_elsewhere: bool = False
    """The path of its executable does not begin at the host's root directory."""
    user_owners: tuple[int, ...] = ()
    """Who owns its user namespace, and each around it, without the host's."""
    is_whole: bool = False
    """/proc was asked while it ran this program: nothing that it is judged by is missing."""


@dataclass(frozen=True, slots=True)
class LocalConsumer:
    """Who connects from this host, in exactly the terms the kernel judges by."""

    exe: str | None
    """Real path in the process's own root; None: not known to user space (yet)."""
    uid: int
    gids: frozenset[int]
    """Effective and supplementary."""
    cgroups: tuple[str, ...]
    """The cgroup2 path of the process and of each ancestor but the root, deepest first."""
    netns: int
    """Network namespace cookie."""
    in_pid_namespace: bool = False
    """In a pid namespace that only root could have made and that is not the host's: in a container."""
    exe_elsewhere: bool = False
    """The path of its executable does not begin at the host's root directory."""
    owners: tuple[tuple[int, int], ...] = ()
    """(uid, gid) of who owns its user namespace, and each around it, without the host's."""


@dataclass(frozen=True, slots=True)
class RemoteConsumer:
    """Who connects from elsewhere: an address is all there is."""

    address: Address


Consumer = LocalConsumer | RemoteConsumer


@dataclass(frozen=True, slots=True)
class Destination:
    """What is connected to. `netns` is the consumer's namespace cookie (the server's, if remote)."""

    protocol: Protocol
    address: Address
    port: int
    netns: int
    delivered_in: int = 0
    """Cookie of the namespace where it is known to arrive, to a socket that takes what is addressed to it; 0:
    not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    decision: Decision
    reason: Reason
    target: int = 0
    """Target id; 0: no target (the attempt is unprotected and the rest means nothing)."""
    grant: int = 0
    """Grant id of the candidate that decided; 0: none."""
    enforced: bool = False
    """It was refused by a gate."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace of this host that user space can enter."""

    cookie: int
    inode: int
    path: str
    """A path that opens it: /proc/PID/ns/net or /run/netns/NAME."""
    addresses: tuple[Address, ...] = ()
    """Global-scope addresses on its interfaces; loopback and link-local left out."""


@dataclass(frozen=True, slots=True)
class Socket:
    """One row of sock_diag."""

    protocol: Protocol
    family: int
    """socket.AF_INET or AF_INET6 (an AF_INET6 listener on :: also takes IPv4 unless `v6only`)."""
    state: int
    """TCP state number (1 ESTABLISHED, 10 LISTEN; include/net/tcp_states.h); UDP unconnected is 7."""
    local: Address
    local_port: int
    remote: Address
    remote_port: int
    inode: int
    cookie: int
    uid: int
    netns: int
    v6only: bool = False
    transparent: bool = False
    """IP_TRANSPARENT: it takes connections to addresses of others."""


@dataclass(frozen=True, slots=True)
class Listener:
    """A listening TCP socket or an unconnected bound UDP one, with the processes that hold it."""

    protocol: Protocol
    family: int
    address: Address
    port: int
    netns: int
    cookie: int
    inode: int
    v6only: bool
    owners: tuple[Process, ...] = ()
    """Who holds the socket, first the one that called listen() where that is known."""
    transparent: bool = False

    uid: int = -1
    """Of who made the socket; -1: not known."""
    activated: bool = False
    """pid 1, or a system .socket unit, called listen() on it for somebody else."""
    strange: bool = False
    """No owner of what is served here called listen(), or held it at the last look."""
    opener: Process | None = None
    """Who called listen(), as the kernel told it; only where nobody is known to hold the socket."""

    @property
    def wildcard(self) -> bool:
        return self.address in (Address(0), Address(MAPPED_PREFIX))


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of this host that leads into a container."""

    protocol: Protocol
    address: Address
    """On this host."""
    port: int
    to: tuple[Address, ...]
    """The container's."""
    to_port: int
    by: str
    """Who says so."""


@dataclass(frozen=True, slots=True)
class Script:
    """A program that is a script: what runs is its interpreter."""

    path: str
    interpreter: str
    """Real path."""
    starts: tuple[str, ...] = ()
    """Real paths of programs that it runs in its own place, as far as it says so."""


@dataclass(frozen=True, slots=True)
class EphemeralPorts:
    """What the kernel gives to a socket that asks for no port; without arguments: nothing is known."""

    first: int = 1
    last: int = 0
    reserved: tuple[tuple[int, int], ...] = ()
    """Ranges, both ends included, that it gives to nobody."""

    def gives(self, port: int) -> bool:
        return self.first <= port <= self.last and not any(
            first <= port <= last for first, last in self.reserved
        )


@dataclass(frozen=True, slots=True)
class HostFacts:
    """What compile() needs to know of the host, gathered by the daemon."""

    host_netns: int
    """Cookie of the namespace the agent runs in, which is what `at: host` means."""
    addresses: tuple[Address, ...]
    """Addresses of this host's interfaces in that namespace, link-local ones included, without
    loopback (127.0.0.0/8, ::1) and without those on kube-ipvs0."""
    local_routes: tuple[Network, ...] = ()
    """What else is delivered to this host: routes of type local, in table local and those of VRFs."""
    elsewhere: tuple[Address, ...] = ()
    """What has a local route and is not this host: ClusterIPs on kube-ipvs0."""
    namespaces: tuple[Namespace, ...] = ()
    """The other namespaces."""
    users: Mapping[str, int] = field(default_factory=dict)
    """uid by user name, for every name the policy mentions and the host knows."""
    groups: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By gid of a group that is excluded: uids of its members, those whose primary group it is included."""
    subordinates: Mapping[int, tuple[range, ...]] = field(default_factory=dict)
    """By uid of a user who is excluded, or such a member: his subordinate uids (subuid(5))."""
    executables: frozenset[str] = frozenset()
    """Real paths of executables known so far (running, named by the kernel, or found by a glob)."""
    for_anybody: frozenset[str] = frozenset()
    """Of the executables that selectors mean, those that any user of this host may execute."""
    realpaths: Mapping[str, str] = field(default_factory=dict)
    """For each literal exe path of the policy that is or goes through a symbolic link: where it ends."""
    cgroups: Mapping[str, int] = field(default_factory=dict)
    """cgroup2 id by path ("/system.slice/nginx.service"), all that exist."""
    containers: Mapping[str, Container] = field(default_factory=dict)
    """By the cgroup2 path that is the container's own; those that somebody without privilege could have made
    are left out."""
    delegated: frozenset[str] = frozenset()
    """Paths of cgroups in which others than root can make some, or could when some were made."""
    container_netns: Mapping[str, int] = field(default_factory=dict)
    """By the same path: the network namespace of those that a service is at."""
    published: tuple[Publication, ...] = ()
    """Ports of this host that lead into containers."""
    ephemeral: EphemeralPorts = EphemeralPorts()
    """Of this host's network namespace."""
    boot_offset_ns: int = 0
    """wall clock (UTC, ns since the epoch) minus CLOCK_BOOTTIME."""
    clock_synced: bool = True
    hash_seed: int = 0
    """Key of the path and name hashes (agent/policy/terms/hashing.py)."""
    scripts: Mapping[str, Script] = field(default_factory=dict)
    """By exe selector: a script that it finds, where it finds nothing else."""
    units_at_rest: Mapping[str, str] = field(default_factory=dict)
    """By unit that the policy names: why no process is in it, if none is."""


@dataclass(frozen=True, slots=True)
class Flow:
    """An attempt that went through, until it closes."""

    cookie: int
    target: int
    consumer: Process | None
    consumer_address: Address
    consumer_port: int
    address: Address
    port: int
    owner: Process | None
    acceptor: Process | None
    verdict: Verdict
    origin: Origin
    protocol: Protocol
    opened_boot_ns: int
    established: bool
    pre_existing: bool = False
    netns: int = 0
    """Namespace of the socket whose cookie it is: the consumer's, or the server's of a remote one."""
