"""The tc gate of this agent: its filters are named after its pins."""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING

from agent.config import Settings
from agent.kernel.attach.gates import SocketGate
from agent.kernel.attach.other_programs import tcx_programs
from agent.kernel.pins import Pins
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
    from agent.enforce.tc import TcGate  # see gating

    pins = pins or Pins(settings.paths.pins)
    try:
        program = libbpf.open_pin(pins.program(PROGRAM))
    except FileNotFoundError:
        program = _NO_PROGRAM
    name = f"licet-{zlib.crc32(str(pins.root).encode()):08x}"
    numbers, interfaces = pins.open_map("tc_netns"), settings.scope.interfaces
    return TcGate(program, numbers, name, interfaces, run_in_namespace, LinkWatch, tcx_programs)


def let_go(settings: Settings) -> None:
    """Remove our filters from every network namespace in scope, behind the socket gate, which goes by what
    they have seen. Fine where there are none."""
    of_version = Pins(settings.paths.pins).versions()
    pins = next((one for one in of_version if one.map("tc_netns").exists()), None)
    if pins is not None:
        SocketGate(pins).detach()
        reader = ProcReader(settings.paths.proc, cgroup_mount=find_mount())
        packet_gate(settings, pins).detach(Namespaces(reader, settings.scope.namespaces).all())
