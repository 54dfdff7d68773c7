"""The gates: loaded beforehand, attached while something enforces, let go of when nothing does."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from agent.config import Settings
from agent.errors import KernelError
from agent.kernel import load
from agent.kernel.gates import CgroupGate, SocketGate
from agent.kernel.maps import PolicyMaps
from agent.model import Namespace

log = logging.getLogger(__name__)


class PacketGate(Protocol):
    """The tc gate, as far as it is attached and let go of."""

    def sync(self, namespaces: Sequence[Namespace]) -> None: ...

    def detach(self) -> None: ...

    def attached(self) -> Sequence[object]: ...


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
    packet: Callable[[], PacketGate] | None = None
    """Makes the tc gate; called once its program is loaded."""
    missing: dict[str, str] = field(default_factory=dict)
    """By program, why this kernel does not take it."""
    attached: tuple[str, ...] = ()
    _packet: PacketGate | None = None
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
            await asyncio.to_thread(self._attach if self.wanted() else self._detach)

    async def follow(self) -> None:
        """Namespaces and interfaces that are new, while anything is attached."""
        if not self.attached:
            return
        async with self._busy:
            if self.attached:
                await asyncio.to_thread(self._sync)

    def _load(self) -> None:
        self.missing = load.load_gates(self.settings)

    def _attach(self) -> None:
        self._load()
        try:
            self.connect.attach()
            self.bind.attach()
        except OSError as error:
            self._detach()
            raise KernelError(f"a gate cannot be attached: {error}; nothing is refused") from error
        self._sync()

    def _sync(self) -> None:
        attached = ["connect", "bind"]
        namespaces = self._in_scope()
        if "refuse_lookup" not in self.missing:
            try:
                self.socket.sync(namespaces)
            except OSError as error:
                log.error("the socket gate is not attached everywhere: %s", error)
            if self.socket.attached():
                attached.append("socket")
        if self.packet and self.settings.scope.interfaces and "refuse_packet" not in self.missing:
            self._packet = self._packet or self.packet()
            self._packet.sync(namespaces)
            if self._packet.attached():
                attached.append("tc")
        self._say(attached)

    def _in_scope(self) -> Sequence[Namespace]:
        """Where the cgroup is narrowed and namespaces are not, nothing is refused outside of that cgroup."""
        scope = self.settings.scope
        return () if scope.namespaces is None and scope.cgroup != "/" else self.namespaces()

    def _detach(self) -> None:
        self._say(())
        if self._packet:
            self._packet.detach()
        self.socket.detach()
        self.bind.detach()
        self.connect.detach()

    def _say(self, attached: Sequence[str]) -> None:
        self.attached = tuple(attached)
        self.maps.set_gates(attached)
