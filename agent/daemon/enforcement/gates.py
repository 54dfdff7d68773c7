"""The gates: loaded beforehand, attached while something enforces, let go of when nothing does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agent.config import Settings
from agent.daemon.enforcement.datagram_hooks import Datagrams
from agent.daemon.enforcement.packet_gate import PROGRAM as PACKET_PROGRAM
from agent.errors import KernelError, LicetError
from agent.kernel.attach.gates import BIND, CONNECT, LOOKUP, CgroupGate, SocketGate
from agent.kernel.loading import supervisor
from agent.kernel.tables.policy_maps import PolicyMaps
from agent.model import Namespace
from agent.wording import counted

if TYPE_CHECKING:
    from agent.enforce.tc import TcGate  # loads pyroute2, 8 MB, which an agent that only observes need not

log = logging.getLogger(__name__)

GATE_PROGRAMS = {
    "connect": tuple(CONNECT),
    "bind": tuple(BIND),
    "socket": (LOOKUP,),
    "tc": (PACKET_PROGRAM,),
}


@dataclass(slots=True)
class Gates:
    """What is attached is said to the programs (settings.gates) after it is attached, and taken back before
    it is let go of: nothing is called refused that was not."""

    settings: Settings
    maps: PolicyMaps
    wanted: Callable[[], bool]
    """Does anything enforce, by policy or override?"""
    namespaces: Callable[[], Sequence[Namespace]]
    connect: CgroupGate
    bind: CgroupGate
    socket: SocketGate
    datagrams: Datagrams
    make_packet_gate: Callable[[], TcGate]
    """Called once its program is loaded, or to let go of what an earlier run has left."""
    missing: dict[str, str] = field(default_factory=dict)
    """By program, why this kernel does not take it."""
    attached: tuple[str, ...] = ()
    _packet: TcGate | None = None
    _is_clean: bool = False
    """Nothing is attached, by an earlier run neither."""
    _busy: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def stand_by(self) -> None:
        """Compile and load now, so that turning to enforce takes milliseconds. Attaches nothing."""
        async with self._busy:
            await asyncio.to_thread(self._load)

    async def attach(self) -> None:
        """Raises KernelError where the connect gate can't be attached; then nothing is."""
        async with self._busy:
            await asyncio.to_thread(self._attach)

    async def settle(self) -> None:
        """Attach if something enforces, let go if nothing does. Raises KernelError as attach() does."""
        async with self._busy:
            await asyncio.to_thread(self._observe_datagrams)
            await asyncio.to_thread(self._attach if self.wanted() else self._detach)

    async def follow(self) -> None:
        """Namespaces and interfaces that are new, while anything is attached."""
        if not self.attached and not self.datagrams.attached:
            return
        async with self._busy:
            if self.attached:
                await asyncio.to_thread(self._sync)
            else:
                await asyncio.to_thread(self._observe_datagrams)

    def status(self) -> list[dict[str, str]]:
        """Each gate: gate, attached_to ("" where it is not), note."""
        cgroup = self.settings.scope.cgroup
        places = {
            "connect": cgroup,
            "bind": cgroup,
            "socket": counted(len(self.socket.attached()), "network namespace"),
            "tc": counted(len(self._packet.attached()) if self._packet else 0, "interface"),
        }
        return [
            {
                "gate": gate,
                "attached_to": place if gate in self.attached else "",
                "note": self._why_missing(gate) or (self._packet_note() if gate == "tc" else ""),
            }
            for gate, place in places.items()
        ]

    def _packet_note(self) -> str:
        if not self.settings.scope.interfaces:
            return "scope.interfaces names none; the socket gate refuses"
        if self._packet is None:
            return ""
        notes = [f"{place.interface}: {why}" for place, why in self._packet.failed().items()]
        hidden = ", ".join(sorted({place.interface for place in self._packet.hidden()}))
        if hidden:
            notes.append(
                f"another filter runs before ours on {hidden}; the socket gate refuses what it lets by"
            )
        return "; ".join(notes)

    def _why_missing(self, gate: str) -> str:
        programs = GATE_PROGRAMS[gate]
        return "; ".join(why for name, why in self.missing.items() if name in programs)

    def _observe_datagrams(self, gated: Sequence[int] | None = None) -> None:
        """Where the socket gate is attached, it judges them as they arrive. `gated`: its namespaces, if not
        those where it is now."""
        try:
            self.datagrams.observe(self._in_scope(), self.socket.attached() if gated is None else gated)
        except (OSError, LicetError) as error:
            log.error("UDP is not watched everywhere: %s", error)

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
        """The packet gate first: it sees which socket a packet is of, and the socket gate goes by that."""
        attached = ["connect", "bind"]
        namespaces = self._in_scope()
        if self.settings.scope.interfaces and PACKET_PROGRAM not in self.missing:
            try:
                self._packet = self._packet or self.make_packet_gate()
                self._packet.sync(namespaces)
            except KernelError as error:
                log.error("the packet gate is not attached everywhere: %s", error)
            if self._packet and self._packet.attached():
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
        """Where the cgroup is narrowed and namespaces are not, nothing is refused outside of that cgroup."""
        scope = self.settings.scope
        return () if scope.namespaces is None and scope.cgroup != "/" else self.namespaces()

    def _detach(self) -> None:
        left = self.maps.gates  # an earlier run's, too
        self._say(())
        if self._is_clean:
            return
        self._observe_datagrams(gated=())
        self.socket.detach()
        if "tc" in left:
            (self._packet or self.make_packet_gate()).detach(self.namespaces())
        self.bind.detach()
        self.connect.detach()
        self.datagrams.detach_gate()
        self._is_clean = True

    def _say(self, attached: Sequence[str]) -> None:
        self.attached = tuple(attached)
        self.maps.set_gates(attached)
