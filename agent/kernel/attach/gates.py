"""Attaches the gates at connect() and at the listening socket: links to pinned programs.

This module neither compiles nor imports bcc. Each link is pinned, so that it outlives the daemon.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from agent.kernel.attach.netns_trampoline import load_trampoline
from agent.kernel.pins import Pins
from agent.kernel.uapi import AttachType
from agent.model import Namespace
from agent.system import libbpf

CONNECT = {
    "refuse_connect4": AttachType.CGROUP_INET4_CONNECT,
    "refuse_connect6": AttachType.CGROUP_INET6_CONNECT,
}
SEND = {
    "refuse_send4": AttachType.CGROUP_UDP4_SENDMSG,
    "refuse_send6": AttachType.CGROUP_UDP6_SENDMSG,
    "refuse_datagram_connect4": AttachType.CGROUP_INET4_CONNECT,
    "refuse_datagram_connect6": AttachType.CGROUP_INET6_CONNECT,
}
BIND = {"refuse_bind4": AttachType.CGROUP_INET4_BIND, "refuse_bind6": AttachType.CGROUP_INET6_BIND}
"""Programs and their attach types."""
LOOKUP = "refuse_lookup"
EXEC = "watch_exec"
RMDIR = "watch_rmdir"
"""These two refuse nothing. The daemon attaches them while they are needed."""
OBSERVE_SEND = {
    "observe_send4": AttachType.CGROUP_UDP4_SENDMSG,
    "observe_send6": AttachType.CGROUP_UDP6_SENDMSG,
    "observe_datagram_connect4": AttachType.CGROUP_INET4_CONNECT,
    "observe_datagram_connect6": AttachType.CGROUP_INET6_CONNECT,
}
NOTE_DATAGRAM = {"note_datagram": AttachType.CGROUP_INET_EGRESS}
OBSERVE_RECEIVE = {
    "observe_receive4": AttachType.CGROUP_UDP4_RECVMSG,
    "observe_receive6": AttachType.CGROUP_UDP6_RECVMSG,
}
OBSERVE_ARRIVAL = "observe_arrival"
REFUSE_ARRIVAL = "refuse_arrival"
REFUSE_FORWARDED = "refuse_forwarded"
REWRITTEN = "judge_rewritten"
LISTENER = "judge_listener"


class CgroupGate:
    """Programs of one kind on the cgroup of the observers. They run after the observers, because programs of
    a cgroup run in the order in which they were attached."""

    def __init__(self, pins: Pins, cgroup: Path, programs: Mapping[str, int]) -> None:
        self._pins = pins
        self._cgroup = cgroup
        self._programs = programs

    def attach(self, missing: Container[str] = ()) -> None:
        """Attach all programs except the `missing` ones. A link that exists gets the program pinned now.
        Raises OSError."""
        target = os.open(self._cgroup, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            for name, kind in self._programs.items():
                if name not in missing:
                    _attach(self._pins, name, name, target, kind)
        finally:
            os.close(target)

    def detach(self) -> None:
        for name in self._programs:
            self._pins.link(name).unlink(missing_ok=True)

    def attached(self) -> bool:
        return all(self._pins.link(name).exists() for name in self._programs)


class SocketGate:
    """One link for each network namespace; the kernel detaches it when the namespace is removed. The attached
    trampoline calls the loaded gate, or the observer of datagrams: the first entry of map `calls`."""

    def __init__(self, pins: Pins, program: str = LOOKUP, calls: str = "lookup_calls") -> None:
        self._pins = pins
        self._program = program
        self._calls = calls
        self._fresh: set[int] = set()
        """Cookies of namespaces whose link this process has created or updated."""

    def sync(self, namespaces: Iterable[Namespace]) -> None:
        """Attach in these, detach in all others. Skip namespaces removed meanwhile. Raises OSError."""
        wanted = {namespace.cookie: namespace.path for namespace in namespaces}
        for cookie in self.attached():
            if cookie not in wanted:
                self._pins.link(self._name(cookie)).unlink(missing_ok=True)
        self._fresh &= wanted.keys()
        for cookie, path in wanted.items():
            if cookie not in self._fresh:
                with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                    self._attach(cookie, path)

    def _attach(self, cookie: int, path: str) -> None:
        with contextlib.ExitStack() as opened:
            target, program = os.open(path, os.O_RDONLY | os.O_CLOEXEC), self._trampoline(cookie)
            for fd in (target, program):
                opened.callback(os.close, fd)
            _link(self._pins, program, self._name(cookie), target, AttachType.SK_LOOKUP)
        self._fresh.add(cookie)

    def _trampoline(self, cookie: int) -> int:
        with (
            contextlib.closing(self._pins.open_map("lookup_netns")) as note,
            contextlib.closing(self._pins.open_map(self._calls)) as calls,
        ):
            return load_trampoline(cookie, note.fd, calls.fd)

    def detach(self) -> None:
        self.sync(())

    def attached(self) -> list[int]:
        """Cookies of the namespaces that have a link."""
        prefix = self._name("")
        return [int(name.removeprefix(prefix)) for name in self._pins.links() if name.startswith(prefix)]

    def _name(self, cookie: int | str) -> str:
        return f"{self._program}_{cookie}"


def _attach(pins: Pins, program: str, link: str, target: int, kind: int) -> None:
    """Create and pin a link of the pinned program."""
    fd = libbpf.open_pin(pins.program(program))
    try:
        _link(pins, fd, link, target, kind)
    finally:
        os.close(fd)


def _link(pins: Pins, program: int, link: str, target: int, kind: int) -> None:
    """Create and pin a link. If a link is pinned already, replace its program in place."""
    try:
        held = libbpf.open_pin(pins.link(link))
    except FileNotFoundError:
        held = libbpf.link_create(program, target, kind)
        libbpf.pin(held, pins.link(link))
    else:
        libbpf.link_update(held, program)
    os.close(held)
