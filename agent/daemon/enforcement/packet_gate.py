"""The tc gate of this agent: its filters are named after its pins."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agent.config import Settings
from agent.kernel.attach.gates import SocketGate
from agent.kernel.attach.other_programs import tcx_programs
from agent.kernel.pins import Pins
from agent.model import Namespace
from agent.observe.cgroup import find_mount
from agent.observe.netns import Namespaces
from agent.observe.proc import ProcReader
from agent.observe.route_watch import LinkWatch
from agent.system import libbpf
from agent.system.netns import run_in_namespace

if TYPE_CHECKING:
    from agent.enforce.tc import TcGate

PROGRAM = "refuse_packet"
_NO_PROGRAM = -1


def packet_gate(settings: Settings, pins: Pins | None = None) -> TcGate:
    """`pins`: where its program and its map are, if not where they usually are. Without the program, where it
    is not pinned, it can only let go. Raises PinError without the maps."""
    from agent.enforce.tc import TcGate  # see PacketGate

    pins = pins or Pins(settings.paths.pins)
    try:
        program = libbpf.open_pin(pins.program(PROGRAM))
    except FileNotFoundError:
        program = _NO_PROGRAM
    name = f"licet-{zlib.crc32(str(pins.root).encode()):08x}"
    numbers, interfaces = pins.open_map("tc_netns"), settings.scope.interfaces
    return TcGate(program, numbers, name, interfaces, run_in_namespace, LinkWatch, tcx_programs)


@dataclass(slots=True)
class PacketGate:
    """Made at its first use: it loads pyroute2, 8 MB, which an agent that only observes need not."""

    settings: Settings
    _made: TcGate | None = None

    def sync(self, namespaces: Sequence[Namespace]) -> None:
        """To be called once its program is loaded. Raises KernelError, and PinError without its maps."""
        self._made = self._made or packet_gate(self.settings)
        self._made.sync(namespaces)

    def detach(self, namespaces: Sequence[Namespace]) -> None:
        """Also what an earlier run has left."""
        # one that is made here may be without its program, and is not kept
        (self._made or packet_gate(self.settings)).detach(namespaces)

    def attached(self) -> int:
        """To so many interfaces."""
        return len(self._made.attached()) if self._made else 0

    def note(self) -> str:
        """What keeps it from refusing at some interface; "": nothing."""
        if not self.settings.scope.interfaces:
            return "scope.interfaces names none; the socket gate refuses"
        if self._made is None:
            return ""
        notes = [f"{place.interface}: {why}" for place, why in self._made.failed().items()]
        hidden = ", ".join(sorted({place.interface for place in self._made.hidden()}))
        if hidden:
            notes.append(
                f"another filter runs before ours on {hidden}; the socket gate refuses what it lets by"
            )
        return "; ".join(notes)


def let_go(settings: Settings) -> None:
    """Remove our filters from every network namespace in scope, behind the socket gate, which goes by what
    they have seen. Fine where there are none."""
    of_version = Pins(settings.paths.pins).versions()
    pins = next((one for one in of_version if one.map("tc_netns").exists()), None)
    if pins is not None:
        SocketGate(pins).detach()
        reader = ProcReader(settings.paths.proc, cgroup_mount=find_mount())
        packet_gate(settings, pins).detach(Namespaces(reader, settings.scope.namespaces).all())
