"""Switches from the old version's programs to this version's, while traffic runs and gates stay attached.

The new maps, filled with the policy, and the new programs are staged in <pins>/next. The switch goes hook by
hook:

1. Attach the new connect gates behind the old ones. Each gate refuses only what its own observer requests.
2. Replace the flow tracker, with a bridge before it. From here on the new maps follow both ends of each
   connection, including connections that the old observers have judged.
3. Replace the socket gate and the tc filters. The flow of each SYN is now in the new maps, and still in the
   old ones.
4. Replace the connect observers. No old program runs any more. Move the remaining rows and counts, and detach
   the bridge.

Every step may be repeated, so the next start continues an interrupted switch. Two folders in <pins>/next
record the progress: `switching` (a new program is attached) and `finishing` (only pins are left to be
renamed). Standard library only."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from agent.abi import U32
from agent.errors import PinError
from agent.kernel.attach.gates import (
    BIND,
    CONNECT,
    LOOKUP,
    NOTE_DATAGRAM,
    OBSERVE_ARRIVAL,
    OBSERVE_RECEIVE,
    OBSERVE_SEND,
    SEND,
)
from agent.kernel.attach.netns_trampoline import load_trampoline
from agent.kernel.loading.accept_rungs import SOCKET_IO
from agent.kernel.pins import PINNED_MAPS, Pins
from agent.kernel.tables.grace_period import wait_for_programs
from agent.kernel.uapi import AttachType, MapType
from agent.kernel.upgrade.bridge import load_bridge
from agent.kernel.upgrade.migration import Moves
from agent.system import bpf_map, libbpf
from agent.system.kprobe import kretprobe_event

OBSERVERS = {
    "observe_connect4": AttachType.CGROUP_INET4_CONNECT,
    "observe_connect6": AttachType.CGROUP_INET6_CONNECT,
}
TRACKER = "track_flows"
ACCEPTORS = (*SOCKET_IO, "accept")
GATES_BESIDE = {**CONNECT, **SEND}
"""Gates that refuse at the system call. Each refuses only what its own observer requests."""
WHILE_DECLARED = {**NOTE_DATAGRAM, **OBSERVE_RECEIVE, **OBSERVE_SEND}
ATTACH_TYPES = {TRACKER: AttachType.CGROUP_SOCK_OPS, **OBSERVERS, **GATES_BESIDE, **BIND, **WHILE_DECLARED}


@dataclass(slots=True)
class Switch:
    before: Pins
    ready: Pins
    """<pins>/next"""
    after: Pins
    cgroup: Path
    rung: str
    """The attach method that was loaded for accept()."""
    replace_filters: Callable[[], None]
    """Replaces the program of the tc filters by the staged one."""
    carry_events: Callable[[], None]
    """Carries over the events that wait in the old rings."""
    reached: Callable[[str], None] = field(default=lambda step: None)
    """Called after each step."""

    def refuse_losses(self) -> None:
        """Raises PinError where an attached gate has no staged program that replaces it."""
        attached = {name.rstrip("0123456789_") for name in self.before.links() if name.startswith("refuse_")}
        have = {name.rstrip("0123456789_") for name in self.ready.programs()}
        if attached - have:
            raise PinError(
                f"this kernel refused {', '.join(sorted(attached - have))} of this version; the earlier "
                "version's gate is attached and stays in force; install that version again"
            )

    def copy(self) -> None:
        """The first copy of all rows. No new program runs yet."""
        with contextlib.closing(Moves(self.before, self.ready)) as moves:
            moves.copy()

    def watch_cgroups(self) -> None:
        """Attach the new cgroup watch: cgroups made from here on are added to the new tables."""
        if not self.ready.link("cgroup_mkdir").exists():
            program = libbpf.open_pin(self.ready.program("cgroup_mkdir"))
            _pin_and_close(
                libbpf.raw_tracepoint_open("cgroup_mkdir", program), self.ready.link("cgroup_mkdir")
            )
            os.close(program)

    def run(self) -> None:
        """Do the switch. Raises OSError or KernelError; a later call continues where this one stopped."""
        if not (self.ready.base / "finishing").exists():
            (self.ready.base / "switching").mkdir(exist_ok=True)
            self.reached("switching")
            with contextlib.closing(Moves(self.before, self.ready)) as moves:
                self._replace_programs(moves)
            (self.ready.base / "finishing").mkdir(exist_ok=True)
        self.reached("finishing")

    def _replace_programs(self, moves: Moves) -> None:
        self.watch_cgroups()
        for name in GATES_BESIDE:
            self._attach_beside(name)
        for name in BIND:
            if self.before.link(name).exists():
                self._update(name)
        self._replace_acceptor()
        bridge = self._bridge(moves)
        self._update(TRACKER, bridge)
        self.reached("tracker")
        wait_for_programs()
        moves.copy_flows()
        moves.copy_again()
        self.reached("flows")
        self._replace_lookup(LOOKUP, "lookup_calls")
        self._replace_lookup(OBSERVE_ARRIVAL, "arrival_calls")
        self.replace_filters()
        self.reached("filters")
        watched = any(self.before.link(name).exists() for name in OBSERVE_SEND)
        for name in (*OBSERVERS, *(WHILE_DECLARED if watched else ())):  # new ones, too
            self._update(name)
        self.reached("observers")
        wait_for_programs()
        for name in GATES_BESIDE:
            if self.ready.link(name).exists():
                self.before.link(name).unlink(missing_ok=True)
        self.carry_events()
        moves.finish()
        self.reached("counts")
        self._update(TRACKER)
        if bridge is not None:
            os.close(bridge)

    def _attach_beside(self, name: str) -> None:
        """Attach a new gate behind the old one, if the old one is attached."""
        link = self.ready.link(name)
        if not self.before.link(name).exists() or link.exists() or not self.ready.program(name).exists():
            return
        program = libbpf.open_pin(self.ready.program(name))
        try:
            self._attach(name, program)
        finally:
            os.close(program)

    def _attach(self, name: str, program: int) -> None:
        target = os.open(self.cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            _pin_and_close(libbpf.link_create(program, target, ATTACH_TYPES[name]), self.ready.link(name))
        finally:
            os.close(target)

    def _update(self, name: str, instead: int | None = None) -> None:
        """Replace the program of a link in place; attach it if there is no link."""
        with contextlib.ExitStack() as opened:
            program = instead
            if program is None:
                if not self.ready.program(name).exists():
                    return  # this kernel refused the gate
                program = libbpf.open_pin(self.ready.program(name))
                opened.callback(os.close, program)
            place = self.ready.link(name) if self.ready.link(name).exists() else self.before.link(name)
            try:
                link = libbpf.open_pin(place)
            except FileNotFoundError:
                self._attach(name, program)
                return
            opened.callback(os.close, link)
            libbpf.link_update(link, program)

    def _replace_acceptor(self) -> None:
        """Detach the old acceptor before attaching the new one: both together would count twice."""
        for name in ACCEPTORS:
            program, link = self.ready.program(name), self.ready.link(name)
            if link.exists():
                continue
            self.before.link(name).unlink(missing_ok=True)
            if program.exists():
                held = libbpf.open_pin(program)
                _pin_and_close(_attach_acceptor(name, held, self.rung), link)
                os.close(held)

    def _bridge(self, moves: Moves) -> int | None:
        """The fd of a bridge that calls the new flow tracker. None: no map needs a bridge."""
        blanks: list[int] = []

        def blank(table: bpf_map.Map) -> int:
            blanks.append(bpf_map.map_create(MapType.ARRAY, "licet_blank", 4, table.value_size, 1))
            return blanks[-1]

        tables = moves.bridged(blank)
        if not tables:
            return None
        calls = self.ready.map("bridge_calls")
        if not calls.exists():
            libbpf.pin(bpf_map.map_create(MapType.PROG_ARRAY, "bridge_calls", 4, 4, 1), calls)
        held = libbpf.open_pin(calls)
        tracker = libbpf.open_pin(self.ready.program(TRACKER))
        with contextlib.closing(bpf_map.Map.from_fd(held, "bridge_calls")) as one:
            one.put(U32.pack(0), U32.pack(tracker))
            program = load_bridge(tables, held)
        for fd in (tracker, *blanks):
            os.close(fd)
        return program

    def _replace_lookup(self, gate: str, table: str) -> None:
        """Replace the gate that the trampolines call. The socket gate and the arrival observer have
        trampolines."""
        if not self.ready.program(gate).exists():
            return
        program = libbpf.open_pin(self.ready.program(gate))
        calls, note = self.ready.open_map(table), self.ready.open_map("lookup_netns")
        calls.put(U32.pack(0), U32.pack(program))
        os.close(program)
        if _is_another(self.before, self.ready, table) or _is_another(
            self.before, self.ready, "lookup_netns"
        ):
            for name in self.before.links():
                if name.startswith(f"{gate}_"):
                    trampoline = load_trampoline(int(name.removeprefix(f"{gate}_")), note.fd, calls.fd)
                    self._update(name, trampoline)
                    os.close(trampoline)
        calls.close()
        note.close()

    def finish(self) -> None:
        """Rename the staged pins to their final paths, and delete the remaining old pins."""
        self.after.make_folders()
        self.ready.map("bridge_calls").unlink(missing_ok=True)
        if self.before.base != self.after.base:
            for name in self.before.links():
                if not self.ready.link(name).exists() and not self.after.link(name).exists():
                    self.before.link(name).rename(self.after.link(name))
        for folder in ("links", "programs", "maps"):
            for path in sorted((self.ready.base / folder).iterdir()):
                path.rename(self.after.base / folder / path.name)
        self.reached("renamed")
        if self.before.base != self.after.base:
            self.before.clear()
        else:
            self._forget_others()

    def _forget_others(self) -> None:
        for name in set(self.after.maps()) - set(PINNED_MAPS):
            self.after.map(name).unlink(missing_ok=True)
        for name in ACCEPTORS:
            if not self.after.link(name).exists():
                self.after.program(name).unlink(missing_ok=True)


def _attach_acceptor(name: str, program: int, rung: str) -> int:
    """The fd of the link."""
    if name in SOCKET_IO:
        return libbpf.raw_tracepoint_open(name, program)
    if rung == "kretprobe":
        return libbpf.link_create(program, kretprobe_event("inet_csk_accept"), AttachType.PERF_EVENT)
    return libbpf.raw_tracepoint_open(None, program)


def _is_another(before: Pins, after: Pins, name: str) -> bool:
    with before.opened(name) as old, after.opened(name) as new:
        return old is None or new is None or not bpf_map.is_same_map(old, new)


def _pin_and_close(fd: int, path: Path) -> None:
    try:
        libbpf.pin(fd, path)
    finally:
        os.close(fd)
