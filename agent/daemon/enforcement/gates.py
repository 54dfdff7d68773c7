"""The gates, loaded at start, attached while a target enforces and detached when none does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field

from agent.config import Settings
from agent.daemon.enforcement.datagram_hooks import Datagrams
from agent.daemon.enforcement.packet_gate import PROGRAM as PACKET_PROGRAM
from agent.daemon.enforcement.packet_gate import PacketGate
from agent.daemon.policy_sync.modes_in_force import ModesInForce
from agent.errors import KernelError, LicetError
from agent.export.status import Gate
from agent.kernel.attach.gates import BIND, CONNECT, LOOKUP, CgroupGate, SocketGate
from agent.kernel.loading import supervisor
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import Namespace
from agent.observe.netns import Namespaces
from agent.wording import counted

log = logging.getLogger(__name__)

GATE_PROGRAMS = {
    "connect": tuple(CONNECT),
    "bind": tuple(BIND),
    "socket": (LOOKUP,),
    "tc": (PACKET_PROGRAM,),
}


@dataclass(slots=True)
class Gates:
    """`settings.gates` lists the attached gates for the BPF programs.

    A gate's bit is set after attaching and cleared before detaching. No attempt is therefore reported as
    refused unless a gate refused it."""

    settings: Settings
    maps: PolicyMaps
    modes: ModesInForce
    namespaces: Namespaces
    connect: CgroupGate
    bind: CgroupGate
    socket: SocketGate
    datagrams: Datagrams
    packet: PacketGate
    missing: dict[str, str] = field(default_factory=dict)
    """Reason why this kernel does not load a program, by program."""
    attached: tuple[str, ...] = ()
    _is_clean: bool = False
    """True if nothing is attached, not even from an earlier run."""
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def stand_by(self) -> None:
        """Compile and load the gates, so that a switch to enforce takes milliseconds. Attaches nothing."""
        async with self._busy:
            await asyncio.to_thread(self._load)

    async def attach(self) -> None:
        """Attach the gates. Raises KernelError if the connect gate cannot be attached; then none is
        attached."""
        async with self._busy:
            await asyncio.to_thread(self._attach)

    async def settle(self) -> None:
        """Attach if a target enforces, detach if none does. Raises KernelError as attach() does."""
        async with self._busy:
            await asyncio.to_thread(self._observe_datagrams)
            await asyncio.to_thread(self._attach if self.modes.needs_gates() else self._detach)

    async def follow(self) -> None:
        """Attach to new namespaces and interfaces, while any gate is attached."""
        if not self.attached and not self.datagrams.attached:
            return
        async with self._busy:
            if self.attached:
                await asyncio.to_thread(self._sync)
            else:
                await asyncio.to_thread(self._observe_datagrams)

    def status(self) -> list[Gate]:
        """Fields of each gate: gate, attached_to ("" if not attached), note."""
        cgroup = self.settings.scope.cgroup
        places = {
            "connect": cgroup,
            "bind": cgroup,
            "socket": counted(len(self.socket.attached()), "network namespace"),
            "tc": counted(self.packet.attached(), "interface"),
        }
        return [
            {
                "gate": gate,
                "attached_to": place if gate in self.attached else "",
                "note": self._why_missing(gate) or (self.packet.note() if gate == "tc" else ""),
            }
            for gate, place in places.items()
        ]

    def _why_missing(self, gate: str) -> str:
        programs = GATE_PROGRAMS[gate]
        return "; ".join(why for name, why in self.missing.items() if name in programs)

    def _observe_datagrams(self, gated: Sequence[int] | None = None) -> None:
        """Attach the UDP observers, except where the socket gate judges datagrams. `gated` overrides its
        current namespaces."""
        try:
            self.datagrams.observe(self._in_scope(), self.socket.attached() if gated is None else gated)
        except (OSError, LicetError) as error:
            log.error("UDP is not observed everywhere: %s", error)

    def _load(self) -> None:
        self.missing = supervisor.load_gates(self.settings)

    def _attach(self) -> None:
        self._load()
        self._is_clean = False
        try:
            self.connect.attach()
            self.bind.attach()
            self.datagrams.enforce()
        except OSError as error:
            self._detach()
            raise KernelError(f"a gate cannot be attached: {error}; nothing is refused") from error
        self._sync()

    def _sync(self) -> None:
        """Attach everywhere in scope. The tc gate comes first: it records which socket a packet is from, and
        the socket gate uses that."""
        attached = ["connect", "bind"]
        namespaces = self._in_scope()
        if self.settings.scope.interfaces and PACKET_PROGRAM not in self.missing:
            try:
                self.packet.sync(namespaces)
            except KernelError as error:
                log.error("the tc gate is not attached everywhere: %s", error)
            if self.packet.attached():
                attached.append("tc")
        if LOOKUP not in self.missing:
            try:
                self.socket.sync(namespaces)
            except OSError as error:
                log.error("the socket gate is not attached everywhere: %s", error)
            if self.socket.attached():
                attached.append("socket")
        self._say(attached)
        self._observe_datagrams()

    def _in_scope(self) -> Sequence[Namespace]:
        """Namespaces in scope. If only scope.cgroup is narrowed, there are none, because nothing outside that
        cgroup may be refused."""
        scope = self.settings.scope
        return () if scope.namespaces is None and scope.cgroup != "/" else self.namespaces.all()

    def _detach(self) -> None:
        left = self.maps.gates  # includes gates of an earlier run
        self._say(())
        if self._is_clean:
            return
        self._observe_datagrams(gated=())
        self.socket.detach()
        if "tc" in left:
            self.packet.detach(self.namespaces.all())
        self.bind.detach()
        self.connect.detach()
        self.datagrams.detach_gate()
        self._is_clean = True

    def _say(self, attached: Sequence[str]) -> None:
        if self.attached != tuple(attached):
            log.debug("gates: %s -> %s", ", ".join(self.attached) or "none", ", ".join(attached) or "none")
        self.attached = tuple(attached)
        self.maps.set_gates(attached)
