"""A laboratory with the observers and the packet gate alone: no connect gate, no socket gate, no daemon."""

from __future__ import annotations

import fcntl
import os
import select
import socket
import struct
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from agent import abi
from agent.config import Paths, Scope, Settings
from agent.enforce.tc import RunIn, TcGate
from agent.kernel.attach.other_programs import tcx_programs
from agent.kernel.compile.cache import compiled
from agent.kernel.compile.compiler import offset_flags, open_btf
from agent.kernel.compile.source import GATES, HEADERS, bpf_folder, joined
from agent.kernel.loading.program_set import Programs
from agent.kernel.loading.supervisor import load
from agent.kernel.pins import Pins
from agent.kernel.tables.counters import Counters
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.kernel.uapi import ProgramType
from agent.model import Decision, HostFacts, Namespace, Origin, to_address
from agent.observe.route_watch import LinkWatch
from agent.policy.document.load import parse_policy
from agent.policy.tables.compile import compile_policy
from agent.policy.tables.ids import Ids
from agent.system import libbpf
from agent.system.netns import own_cookie, run_in_namespace
from tests.fixtures import cgroups, namespaces
from tests.fixtures.lab import Lab
from tests.fixtures.leftovers import BPFFS, KEPT, remove_pins
from tests.fixtures.names import new_name

INTERFACES = ("to-remote", "to-container", "lo")
CLOSED, OPEN, UNDECLARED, FAR, SILENT = 7351, 7352, 7353, 7354, 7355
"""Ports: for uid 1001 alone; for the remote namespace as well; of no service; of a service in the remote
namespace, for uid 1001 alone; as the first, but a refused SYN is dropped."""
LICENSED, UNLICENSED = 1001, 1002
POLICY = """\
version: 1
services:
  closed: {product: acme, on_unresolved: deny, ports: [{port: 7351, class: internal}]}
  open: {product: wide, on_unresolved: deny, ports: [{port: 7352, class: internal}]}
  silent: {product: acme, on_deny: drop, on_unresolved: deny, ports: [{port: 7355, class: internal}]}
  far: {product: acme, on_unresolved: deny, at: [10.77.2.2/32], ports: [{port: 7354, class: internal}]}
principals:
  licensed: [{uid: 1001}]
  neighbour: [{cidr: 10.77.2.0/24}, {cidr: "fd77:2::/64"}]
licenses:
  - {id: acme, product: acme, entitlements: [{id: a, classes: [internal], principals: [licensed]}]}
  - {id: wide, product: wide, entitlements: [{id: w, classes: [internal], principals: [licensed, neighbour]}]}
enforcement: {default: MODE}
"""
RST_ACK, ACK, SYN = 0x14, 0x10, 0x02
TUNSETIFF, IFF_TUN, IFF_NO_PI = 0x400454CA, 0x1, 0x1000
"""linux/if_tun.h"""
ETH_P_IP, SIOCGIFHWADDR = 0x0800, 0x8927
_IP = struct.Struct("!BBHHHBBH")
"""Up to the addresses."""
ADDRESS_BYTES = 4
_TCP = struct.Struct("!HHIIBBHHH")


class TcWorld:
    """Use as a context manager. Needs root."""

    def __init__(self) -> None:
        self._cleanup = ExitStack()
        self.lab = Lab()
        self.filter_name = new_name()

    def __enter__(self) -> Self:
        try:
            self._cleanup.enter_context(self.lab)
            self._load()
            for port in (CLOSED, OPEN, UNDECLARED, SILENT):
                self.lab.serve(self.lab.host, "::", port)
            self.lab.serve(self.lab.remote, "0.0.0.0", FAR)
        except BaseException:
            self._cleanup.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def _load(self) -> None:
        root = BPFFS / new_name()
        self._cleanup.callback(remove_pins, root)
        paths = Paths(
            run=self.lab.directory / "run", state=self.lab.directory / "state", pins=root, programs=KEPT
        )
        settings = Settings(scope=Scope(cgroup=self.lab.scope), paths=paths)
        load(settings, cgroups.directory(self.lab.scope))
        self.pins = Pins(root)
        self.host = namespace(self.lab.host)
        self.maps = self._cleanup.enter_context(closing(PolicyMaps(self.pins)))
        self.maps.tune(host_netns=self.host.cookie, edges=False, flow_events=False)
        self.maps.set_gates(["tc"])
        self.counters = self._cleanup.enter_context(closing(Counters(self.pins)))
        self._refused = self._cleanup.enter_context(closing(self.pins.open_map("refused")))
        self.ids = Ids()
        self.program = self._compile()
        self._cleanup.callback(os.close, self.program)

    def _compile(self) -> int:
        source = joined(bpf_folder(), (*HEADERS, *GATES))
        with closing(open_btf()) as btf:
            made = Programs(compiled(source, offset_flags(source, btf), bpf_folder(), KEPT))
        with closing(made) as programs:
            assert programs.take_over_maps(self.pins) == []
            return programs.load("refuse_packet", ProgramType.SCHED_CLS)

    def gate(self, interfaces: Sequence[str] = INTERFACES, run_in: RunIn = run_in_namespace) -> TcGate:
        numbers = self._cleanup.enter_context(closing(self.pins.open_map("tc_netns")))
        made = (self.program, numbers, self.filter_name, interfaces)
        return TcGate(*made, run_in, LinkWatch, tcx_programs)

    @contextmanager
    def attached(self, mode: str = "enforce", places: Sequence[Namespace] = ()) -> Iterator[TcGate]:
        """The gate, in the host namespace and in `places`, on INTERFACES, eth0 and tun0."""
        self.install(mode)
        gate = self.gate((*INTERFACES, "eth0", "tun0"))
        gate.sync([self.host, *places])
        try:
            yield gate
        finally:
            gate.detach()

    @contextmanager
    def pinned_program(self) -> Iterator[Path]:
        """The program where tc(8) finds it."""
        path = self.pins.root / "program"
        libbpf.pin(self.program, path)
        try:
            yield path
        finally:
            path.unlink()

    def install(self, mode: str) -> None:
        lab = self.lab.host
        addresses = ("10.77.1.1", "10.77.2.1", "fd77:1::1", "fd77:2::1")
        facts = HostFacts(
            host_netns=self.host.cookie,
            addresses=tuple(to_address(address) for address in addresses),
            hash_seed=self.maps.ensure_seed(),
        )
        assert lab.v4 in addresses
        policy = parse_policy(POLICY.replace("MODE", mode))
        prepared = self.maps.prepare(compile_policy(policy, facts, self.ids).tables)
        prepared.members.close()
        self.maps.put_in_force(prepared)

    def refused(self) -> int:
        """By the packet gate, of all targets."""
        size, gates = abi.U64.size, len(abi.GATES)
        return sum(
            sum(
                count
                for (count,) in abi.U64.iter_unpack(self._refused.get(abi.U32.pack(index)) or bytes(size))
            )
            for index in range(abi.GATES.index("tc"), 16 * gates, gates)
        )

    def attempts(self) -> dict[tuple[Origin, Decision], int]:
        """All counted so far."""
        found: dict[tuple[Origin, Decision], int] = {}
        for row in self.counters.attempts():
            key = (row.origin, row.decision)
            found[key] = found.get(key, 0) + row.count
        return found


def namespace(place: namespaces.Namespace) -> Namespace:
    """As the agent describes it."""
    with namespaces.entered(place):
        cookie = own_cookie()
    return Namespace(cookie=cookie, inode=place.path.stat().st_ino, path=str(place.path))


def connect(
    place: namespaces.Namespace, address: str, port: int, options: Sequence[tuple[int, int, bytes]] = ()
) -> str:
    """By this process, which no observer watches: the name of the error, "" where a byte came back. `options`
    are those of setsockopt()."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with namespaces.entered(place), socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(5)
        for option in options:
            client.setsockopt(*option)
        try:
            client.connect((address, port))
            client.sendall(b"x")
            return "" if client.recv(1) == b"x" else "EOF"
        except ConnectionRefusedError:
            return "ECONNREFUSED"


@dataclass(frozen=True, slots=True)
class Segment:
    """A TCP header over IPv4, without options, and what is needed to check it."""

    source: str
    destination: str
    source_port: int
    port: int
    sequence: int
    flags: int
    acknowledged: int = 0
    checksum_is_right: bool = True

    def answered(self) -> Segment:
        """The RST|ACK to a SYN."""
        following = (self.sequence + 1) & 0xFFFFFFFF
        ends = (self.destination, self.source, self.port, self.source_port)
        return Segment(*ends, sequence=0, flags=RST_ACK, acknowledged=following)

    def _pseudo(self) -> bytes:
        return _address_bytes(self) + struct.pack("!HH", socket.IPPROTO_TCP, _TCP.size)

    def tcp(self) -> bytes:
        ports = (self.source_port, self.port)
        header = _TCP.pack(*ports, self.sequence, self.acknowledged, 5 << 4, self.flags, 1024, 0, 0)
        check = _checksum(self._pseudo() + header)
        return header[:16] + struct.pack("!H", check) + header[18:]

    def ip(self) -> bytes:
        size = _IP.size + 2 * ADDRESS_BYTES + _TCP.size
        header = _IP.pack(0x45, 0, size, 0, 0, 64, socket.IPPROTO_TCP, 0) + _address_bytes(self)
        check = _checksum(header)
        return header[:10] + struct.pack("!H", check) + header[12:] + self.tcp()

    @classmethod
    def read(cls, packet: bytes) -> Segment:
        """Of an IPv4 packet. checksum_is_right speaks of both headers."""
        source, destination = (socket.inet_ntoa(packet[at : at + 4]) for at in (12, 16))
        header = packet[20:]
        from_port, to_port, sequence, acknowledged, _, flags, *_ = _TCP.unpack_from(header)
        found = cls(source, destination, from_port, to_port, sequence, flags, acknowledged)
        right = _checksum(packet[:20]) == 0 and _checksum(found._pseudo() + header) == 0
        return replace(found, checksum_is_right=right)


def _address_bytes(segment: Segment) -> bytes:
    return socket.inet_aton(segment.source) + socket.inet_aton(segment.destination)


class RawClient:
    """Sends TCP headers as it likes, over IPv4, and reads what is answered."""

    def __init__(self, place: namespaces.Namespace) -> None:
        with namespaces.entered(place):
            self._raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_TCP)
        self._raw.settimeout(5)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._raw.close()

    def has_heard_from(self, port: int) -> bool:
        """In all that has come back and was not read yet."""
        self._raw.setblocking(False)
        try:
            while Segment.read(self._raw.recv(4096)).source_port != port:
                pass
            return True
        except BlockingIOError:
            return False
        finally:
            self._raw.settimeout(5)

    def send(self, segment: Segment) -> None:
        self._raw.sendto(segment.tcp(), (segment.destination, 0))

    def ask(self, segment: Segment) -> Segment:
        """What comes back to its port."""
        self.send(segment)
        while True:
            found = Segment.read(self._raw.recv(4096))
            if (found.source_port, found.port) == (segment.port, segment.source_port):
                return found


class PacketClient(RawClient):
    """As RawClient, but past the network stack of its own namespace: AF_PACKET, by who has CAP_NET_RAW."""

    def __init__(self, place: namespaces.Namespace, interface: str, to: bytes) -> None:
        super().__init__(place)
        self._to = (interface, ETH_P_IP, 0, 0, to)
        with namespaces.entered(place):
            self._packets = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM)

    def __exit__(self, *_: object) -> None:
        super().__exit__()
        self._packets.close()

    def send(self, segment: Segment) -> None:
        self._packets.sendto(segment.ip(), self._to)


def link_address(place: namespaces.Namespace, interface: str) -> bytes:
    """The MAC address of an interface."""
    with namespaces.entered(place), socket.socket() as any_socket:
        request = struct.pack("16s16x", interface.encode())
        return fcntl.ioctl(any_socket, SIOCGIFHWADDR, request)[18:24]


class Tun:
    """An interface without a link-layer header; what this process writes to it has arrived there."""

    def __init__(self, place: namespaces.Namespace, name: str) -> None:
        with namespaces.entered(place):
            self._fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC)
            fcntl.ioctl(self._fd, TUNSETIFF, struct.pack("16sH14x", name.encode(), IFF_TUN | IFF_NO_PI))
        namespaces.ip("-n", place.name, "link", "set", name, "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)

    def ask(self, segment: Segment) -> Segment:
        os.write(self._fd, segment.ip())
        while True:
            readable, _, _ = select.select([self._fd], [], [], 5)
            assert readable, "nothing came back"
            packet = os.read(self._fd, 4096)
            if packet[0] >> 4 == 4:
                return Segment.read(packet)


def _checksum(data: bytes) -> int:
    total = sum(word for (word,) in struct.iter_unpack("!H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tc(place: namespaces.Namespace, *arguments: str) -> str:
    """tc(8) inside a namespace of the laboratory."""
    with namespaces.entered(place):
        done = subprocess.run(["tc", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"tc {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
