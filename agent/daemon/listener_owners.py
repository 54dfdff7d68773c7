"""The owner of each listener, put where the kernel finds it at a connection."""

from __future__ import annotations

import logging
import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from agent.daemon.flows import encode_identity
from agent.errors import KernelError
from agent.kernel import abi
from agent.kernel.libbpf import Map
from agent.model import Listener, Process
from agent.observe.owners import SocketGone, socket_fd
from agent.observe.proc import ProcReader

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    at_ns: int
    places: set[bytes]


@dataclass(slots=True)
class ListenerOwners:
    """Notes listeners the kernel did not see, or that changed hands: one from before the agent, a server that
    forked after listen(), a socket passed on by a supervisor. Connections accepted from then on have it."""

    by_place: Map
    by_socket: Map
    reader: ProcReader
    exe_hash: Callable[[str], int]
    _noted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """By listener's cookie: its owner's pid and start."""

    def known(self) -> Known:
        """To be read before listeners are: who comes after that is newer, and shall not be forgotten."""
        return Known(time.clock_gettime_ns(time.CLOCK_BOOTTIME), set(self.by_place))

    def note(self, served: list[tuple[Listener, Process | None]], before: Known) -> None:
        """`served`: every TCP listener of a declared port with its owner, if it is known. Of the places known
        `before`, those where nobody listens any more are forgotten."""
        here = Counter(_place(listener) for listener, _ in served)
        noted = {}
        for listener, owner in served:
            if owner is None:
                continue
            key = noted[listener.cookie] = (owner.pid, owner.start_boot_ns)
            if self._noted.get(listener.cookie) != key:
                self._note_one(listener, owner, before.at_ns, shared=here[_place(listener)] > 1)
        self._noted = noted
        for place in before.places - here.keys():
            self.by_place.remove(place)

    def _note_one(self, listener: Listener, owner: Process, since_ns: int, *, shared: bool) -> None:
        process = encode_identity(owner, self.exe_hash, listener.netns)
        try:
            self.by_place.put(_place(listener), bytes(abi.ListenerOwner(since_ns=since_ns, process=process)))
            if shared:
                self._note_socket(listener, owner, bytes(process))
        except OSError as error:
            log.debug("port %d: owner not noted: %s", listener.port, error.strerror)

    def _note_socket(self, listener: Listener, owner: Process, identity: bytes) -> None:
        try:
            fd = socket_fd(self.reader, owner.pid, listener.inode)
        except SocketGone:
            return
        except KernelError as error:
            log.warning("%s", error)
            return
        try:
            self.by_socket.put(abi.U32.pack(fd), identity)
        finally:
            os.close(fd)


def _place(listener: Listener) -> bytes:
    return bytes(
        abi.OwnerKey(netns=listener.netns, address=abi.RawAddress.of(listener.address), port=listener.port)
    )
