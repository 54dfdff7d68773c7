"""The frozen domain types that all parts of licet share.

Addresses are `ipaddress.IPv6Address` throughout, with IPv4 in its mapped form (::ffff:a.b.c.d), because
the BPF maps use that form as keys. Times are nanoseconds of CLOCK_BOOTTIME, named `_boot_ns`, unless a
name tells otherwise. Ports are in host byte order.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from enum import IntEnum, StrEnum

Address = ipaddress.IPv6Address
Network = ipaddress.IPv6Network

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
"""Names of services, principals, products, licenses and entitlements."""
MAPPED_PREFIX = 0xFFFF << 32
MEMFD = "memfd:"
"""Stands for the path of a program that has none (memfd_create(2)). Only the program's own process sees
its name."""


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


def show_utc(moment: datetime) -> str:
    """For people: 2027-01-01 00:00 UTC, with seconds if it has any."""
    return f"{moment.astimezone(UTC):{'%Y-%m-%d %H:%M:%S' if moment.second else '%Y-%m-%d %H:%M'}} UTC"


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
    """The numbers are those of bpf/abi.h."""

    ALLOWED = 0
    GRACE = 1
    OVERAGE = 2
    DENIED = 3


class Reason(IntEnum):
    """The reason for a decision. Denying reasons are checked in this order.

    The numbers are those of bpf/abi.h: the higher the number, the more checks a candidate grant has
    passed.
    """

    LICENSED = 0
    EXCLUDED = 1
    NO_LICENSE = 2
    UNLICENSED_PRINCIPAL = 3
    UNRESOLVED = 4
    CHECKOUT_REQUIRED = 5
    MALFORMED = 6
    UNKNOWN_KEY = 7
    BAD_SIGNATURE = 8
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
    """The state of a listener, judged by the policy. The last three are reasons of a violation."""

    DECLARED = "declared"
    OWNER_UNKNOWN = "owner_unknown"
    """The policy names the owners, and the process that serves the port is not known well enough."""
    UNDECLARED = "undeclared_listener"
    OWNER_MISMATCH = "owner_mismatch"
    EXPOSED = "exposed_port"


class Origin(IntEnum):
    """Where a consumer runs: in the service's own network namespace, in another one of this host, or on
    another host."""

    LOOPBACK = 0
    CONTAINER = 1
    REMOTE = 2


class Mode(StrEnum):
    OBSERVE = "observe"
    ENFORCE = "enforce"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """One service × port class: the unit that is judged and counted. Written service/class."""

    service: str
    port_class: PortClass

    def __str__(self) -> str:
        return f"{self.service}/{self.port_class}"


@dataclass(frozen=True, slots=True)
class Container:
    """A container as its runtime describes it. An empty text means "not known". `known` is False while the
    runtime's state has not been found."""

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
        """The name, or else the id shortened as docker shows it."""
        return self.name or self.id[:12]


INIT = 1
"""The pid of the host's service manager."""


@dataclass(frozen=True, slots=True)
class Process:
    """A process, as far as it is known. Empty strings, zeros and empty tuples mean "not known".

    pid is the thread group id in the initial pid namespace. A pid alone does not identify a process,
    because it is reused. `start_boot_ns` completes the identity: it is start_boottime of the group leader,
    as in /proc/PID/stat field 22. uid and gid are the effective ones. cgroup is the cgroup2 path, e.g.
    /system.slice/nginx.service. netns is the network namespace's cookie (SO_NETNS_COOKIE).
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
    """The path was seen in a mount namespace that was made without privilege, so it proves nothing."""
    in_pid_namespace: bool = False
    """The process is in a pid namespace that root made and that is not the host's. This field and the next
    two are known only for processes that were read from /proc."""
    exe_elsewhere: bool = False
    """The path of its executable does not begin at the host's root directory."""
    user_owners: tuple[int, ...] = ()
    """Uids of the owners of its user namespace and of each outer one, without the host's."""
    is_whole: bool = False
    """/proc was read while the process ran this program, so every fact that it is judged by is present."""


@dataclass(frozen=True, slots=True)
class LocalConsumer:
    """A consumer on this host, by exactly the facts that the kernel programs judge by."""

    exe: str | None
    """Real path in the process's own root directory; None: not known to user space (yet)."""
    uid: int
    gids: frozenset[int]
    """Effective and supplementary."""
    cgroups: tuple[str, ...]
    """The cgroup2 path of the process and of each ancestor but the root, deepest first."""
    netns: int
    """Network namespace cookie."""
    in_pid_namespace: bool = False
    """The process is in a pid namespace that only root could have made and that is not the host's: it is
    in a container."""
    exe_elsewhere: bool = False
    """The path of its executable does not begin at the host's root directory."""
    owners: tuple[tuple[int, int], ...] = ()
    """(uid, gid) of the owners of its user namespace and of each outer one, without the host's."""


@dataclass(frozen=True, slots=True)
class RemoteConsumer:
    """A consumer on another host, known only by its address."""

    address: Address


Consumer = LocalConsumer | RemoteConsumer


@dataclass(frozen=True, slots=True)
class Destination:
    """The destination of a connection. `netns` is the cookie of the consumer's namespace, or of the
    server's if the consumer is remote."""

    protocol: Protocol
    address: Address
    port: int
    netns: int
    delivered_in: int = 0
    """Cookie of the namespace in which the connection is known to arrive. It is set only if the accepting
    socket is not transparent, so that the destination is that namespace's own address. 0: not known."""


@dataclass(frozen=True, slots=True)
class Verdict:
    decision: Decision
    reason: Reason
    target: int = 0
    """Target id; 0: no target. The attempt is then unprotected, and the other fields mean nothing."""
    grant: int = 0
    """Grant id of the candidate that decided; 0: none."""
    enforced: bool = False
    """A gate has refused the attempt."""


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace of this host that user space can enter."""

    cookie: int
    inode: int
    path: str
    """A path that opens it: /proc/PID/ns/net or /run/netns/NAME."""
    addresses: tuple[Address, ...] = ()
    """Global-scope addresses on its interfaces, without loopback and link-local ones."""


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
    """IP_TRANSPARENT: the socket accepts connections to addresses of other hosts."""


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
    """The processes that hold the socket. The first is the one that called listen(), if known."""
    transparent: bool = False

    uid: int = -1
    """Uid of the process that made the socket; -1: not known."""
    activated: bool = False
    """pid 1, or a system .socket unit, called listen() on behalf of another process."""
    strange: bool = False
    """No owner of the service called listen(), or held the socket at the last look."""
    opener: Process | None = None
    """The process that called listen(), as the kernel reported it. Set only if no process is known to hold
    the socket."""

    @property
    def wildcard(self) -> bool:
        return self.address in (Address(0), Address(MAPPED_PREFIX))


@dataclass(frozen=True, slots=True)
class Publication:
    """A port of this host that leads into a container."""

    protocol: Protocol
    address: Address
    """The published address on this host."""
    port: int
    to: tuple[Address, ...]
    """Addresses of the container."""
    to_port: int
    by: str
    """The source of this fact: the runtime's file."""


@dataclass(frozen=True, slots=True)
class Script:
    """A program that is a script. The running program is its interpreter."""

    path: str
    interpreter: str
    """Real path."""
    starts: tuple[str, ...] = ()
    """Real paths of the programs that the script execs, as far as its text shows them."""


@dataclass(frozen=True, slots=True)
class EphemeralPorts:
    """The ports that the kernel assigns to a socket that requests none. Without arguments: not known."""

    first: int = 1
    last: int = 0
    reserved: tuple[tuple[int, int], ...] = ()
    """Ranges, with both ends, that the kernel never assigns."""

    def gives(self, port: int) -> bool:
        return self.first <= port <= self.last and not any(
            first <= port <= last for first, last in self.reserved
        )


@dataclass(frozen=True, slots=True)
class HostFacts:
    """The facts about the host that compile() needs. The daemon gathers them."""

    host_netns: int
    """Cookie of the namespace that the agent runs in; `at: host` means this one."""
    addresses: tuple[Address, ...]
    """Addresses of this host's interfaces in that namespace, link-local ones included, without
    loopback (127.0.0.0/8, ::1) and without those on kube-ipvs0."""
    local_routes: tuple[Network, ...] = ()
    """Further destinations that are delivered to this host: routes of type local, in table local and in
    those of VRFs."""
    elsewhere: tuple[Address, ...] = ()
    """Addresses that have a local route but are not this host: ClusterIPs on kube-ipvs0."""
    namespaces: tuple[Namespace, ...] = ()
    """All other network namespaces of this host."""
    users: Mapping[str, int] = field(default_factory=dict)
    """uid by user name, for every name the policy mentions and the host knows."""
    groups: Mapping[str, int] = field(default_factory=dict)
    members: Mapping[int, frozenset[int]] = field(default_factory=dict)
    """By gid of an excluded group: the uids of its members, including those whose primary group it is."""
    subordinates: Mapping[int, tuple[range, ...]] = field(default_factory=dict)
    """By uid of an excluded user, or of a member of an excluded group: the user's subordinate uids
    (subuid(5))."""
    executables: frozenset[str] = frozenset()
    """Real paths of executables known so far (running, named by the kernel, or found by a glob)."""
    for_anybody: frozenset[str] = frozenset()
    """Of the executables that selectors mean, those that any user of this host may execute."""
    realpaths: Mapping[str, str] = field(default_factory=dict)
    """For each literal exe path of the policy that is or passes through a symbolic link: its real path."""
    cgroups: Mapping[str, int] = field(default_factory=dict)
    """cgroup2 id by path ("/system.slice/nginx.service"), all that exist."""
    containers: Mapping[str, Container] = field(default_factory=dict)
    """By the container's own cgroup2 path. Cgroups that an unprivileged user could have made are left out."""
    delegated: frozenset[str] = frozenset()
    """Paths of cgroups in which users other than root can make cgroups, or could at the time when some
    were made."""
    container_netns: Mapping[str, int] = field(default_factory=dict)
    """By the same path: the network namespace of containers that a service is at."""
    published: tuple[Publication, ...] = ()
    """Ports of this host that lead into containers."""
    ephemeral: EphemeralPorts = EphemeralPorts()
    """The ephemeral ports of this host's network namespace."""
    boot_offset_ns: int = 0
    """License time (UTC, ns since the epoch) minus CLOCK_BOOTTIME. Expiry and termination go by it."""
    wall_offset_ns: int = 0
    """Wall clock minus CLOCK_BOOTTIME."""
    gathered_boot_ns: int = 0
    """When the facts were gathered. What has ended by then gives way to what can grant."""
    clock_synced: bool = True
    """The wall clock has agreed with license time, or was ahead of it, in this boot."""
    hash_seed: int = 0
    """Key of the path and name hashes (agent/policy/terms/hashing.py)."""
    scripts: Mapping[str, Script] = field(default_factory=dict)
    """By exe selector: a script that the selector finds, if it finds only scripts."""
    units_at_rest: Mapping[str, str] = field(default_factory=dict)
    """By unit of the policy: why no process is in the unit, if none is."""

    @property
    def start_offset_ns(self) -> int:
        """The later of license time and the wall clock, minus CLOCK_BOOTTIME. Beginnings go by it."""
        return max(self.boot_offset_ns, self.wall_offset_ns)


@dataclass(frozen=True, slots=True)
class Flow:
    """An attempt that became a connection. It is a flow until it closes."""

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
    """Namespace of the socket that has this cookie: the consumer's socket, or the server's if the consumer
    is remote."""
