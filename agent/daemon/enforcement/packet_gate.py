"""The tc gate of this agent. Its filters are named after the agent's pins."""

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
    """The gate with the program and map of `pins`, by default those in force. If the program is not pinned,
    the gate can only detach. Raises PinError if the maps are missing."""
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
    """The tc gate, made at its first use: it imports pyroute2 (8 MB), which an observing agent does not
    need."""

    settings: Settings
    _made: TcGate | None = None

    def sync(self, namespaces: Sequence[Namespace]) -> None:
        """Attach to the namespaces. Call this once the program is loaded. Raises KernelError, and PinError if
        the maps are missing."""
        self._made = self._made or packet_gate(self.settings)
        self._made.sync(namespaces)

    def detach(self, namespaces: Sequence[Namespace]) -> None:
        """Detach all filters, including those of an earlier run."""
        # a gate made here may lack its program, so it is not stored
        (self._made or packet_gate(self.settings)).detach(namespaces)

    def attached(self) -> int:
        """Number of interfaces that the gate is attached to."""
        return len(self._made.attached()) if self._made else 0

    def note(self) -> str:
        """Reason why the gate cannot refuse at some interface; "" if there is none."""
        if not self.settings.scope.interfaces:
            return "scope.interfaces lists none; the socket gate refuses"
        if self._made is None:
            return ""
        notes = [f"{place.interface}: {why}" for place, why in self._made.failed().items()]
        hidden = ", ".join(sorted({place.interface for place in self._made.hidden()}))
        if hidden:
            notes.append(
                f"another filter runs before ours on {hidden}; the socket gate refuses what that lets pass"
            )
        return "; ".join(notes)


def let_go(settings: Settings) -> None:
    """Remove our filters from every network namespace in scope; having none is fine.

    The socket gate is detached first, because it relies on what the filters have recorded."""
    of_version = Pins(settings.paths.pins).versions()
    pins = next((one for one in of_version if one.map("tc_netns").exists()), None)
    if pins is not None:
        SocketGate(pins).detach()
        reader = ProcReader(settings.paths.proc, cgroup_mount=find_mount())
        packet_gate(settings, pins).detach(Namespaces(reader, settings.scope.namespaces).all())
