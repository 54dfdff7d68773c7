"""From the programs of the version before to those of this one, while traffic runs and everything enforces.

What is new stands ready in <pins>/next: maps, filled with the policy, and programs. Then, hook by hook:

1. The new connect gates are attached behind those of before: each refuses what its own observer asks for.
2. The flow tracker is replaced, with a bridge before it: from here on both ends of each connection are
   followed in the new maps, also of those that the observers of before have judged.
3. The socket gate and the tc filters: the flow of each SYN is in the new maps by now, and still in those of
   before.
4. The connect observers. Nothing of before runs any more; its rows and counts are fetched, and the bridge
   goes.

Whatever ends this process, the next start goes on: each step may be done again. Two folders in <pins>/next
say how far it came: `switching`, something new is attached; `finishing`, only pins are left to be renamed.
Standard library only."""

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
"""What is refused at the call: each gate by its own observer's word."""
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
    """The one of accept() that was loaded."""
    replace_filters: Callable[[], None]
    """The tc filters, by the program that is ready."""
    carry_events: Callable[[], None]
    """What waits in the ring of before."""
    reached: Callable[[str], None] = field(default=lambda step: None)
    """Told of each step that is done."""

    def refuse_losses(self) -> None:
        """Raises PinError where a gate that is attached has no program that takes its place."""
        attached = {name.rstrip("0123456789_") for name in self.before.links() if name.startswith("refuse_")}
        have = {name.rstrip("0123456789_") for name in self.ready.programs()}
        if attached - have:
            raise PinError(
                f"this kernel does not take {', '.join(sorted(attached - have))} of this version, "
                "and the one of before is attached: it goes on; install that version again"
            )

    def copy(self) -> None:
        """The first copy of all rows; nothing new runs yet."""
        with contextlib.closing(Moves(self.before, self.ready)) as moves:
            moves.copy()

    def watch_cgroups(self) -> None:
        """Cgroups that are made from here on join the new tables."""
        if not self.ready.link("cgroup_mkdir").exists():
            program = libbpf.open_pin(self.ready.program("cgroup_mkdir"))
            _pin_and_close(
                libbpf.raw_tracepoint_open("cgroup_mkdir", program), self.ready.link("cgroup_mkdir")
            )
            os.close(program)

    def run(self) -> None:
        """Raises OSError or KernelError; a later call goes on."""
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
        for name in (*OBSERVERS, *(WHILE_DECLARED if watched else ())):  # also those that are new
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
        """Behind what is attached; only if that gate is."""
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
        """The program of a link, in place; attached where it is not."""
        with contextlib.ExitStack() as opened:
            program = instead
            if program is None:
                if not self.ready.program(name).exists():
                    return  # a gate that this kernel does not take
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
        """One after the other: both would count."""
        for name in ACCEPTORS:
            program, link = self.ready.program(name), self.ready.link(name)
            if link.exists():
                continue
            self.before.link(name).unlink(missing_ok=True)
            if program.exists():
                held = libbpf.open_pin(program)
                _pin_and_close(self._attach_acceptor(name, held), link)
                os.close(held)

    def _attach_acceptor(self, name: str, program: int) -> int:
        if name in SOCKET_IO:
            return libbpf.raw_tracepoint_open(name, program)
        if self.rung == "kretprobe":
            return libbpf.link_create(program, kretprobe_event("inet_csk_accept"), AttachType.PERF_EVENT)
        return libbpf.raw_tracepoint_open(None, program)

    def _bridge(self, moves: Moves) -> int | None:
        """Goes on with the new flow tracker. None: no row has to be brought over."""
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
        """The socket gate is called by a small program in each namespace; so is what observes arrivals."""
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
        """Pins get the names they are known by, and what is left of before goes."""
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


def _is_another(before: Pins, after: Pins, name: str) -> bool:
    with before.opened(name) as old, after.opened(name) as new:
        return old is None or new is None or not bpf_map.is_same_map(old, new)


def _pin_and_close(fd: int, path: Path) -> None:
    try:
        libbpf.pin(fd, path)
    finally:
        os.close(fd)
