"""Stores the owner of each listener where the kernel looks it up for a connection."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, field

from agent import abi
from agent.daemon.tracking.listener_rows import ListenerRows, Seen
from agent.errors import KernelError
from agent.kernel.tables.encode_rows import encode_identity
from agent.kernel.tables.names import Names
from agent.model import INIT, Listener, Process
from agent.observe.proc import ProcReader
from agent.observe.socket_holders import SocketGone, socket_fd
from agent.policy.decision.listeners import opens_for_others
from agent.system.boottime import boot_ns
from agent.system.bpf_map import Map

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Known:
    at_ns: int
    places: set[bytes]


@dataclass(frozen=True, slots=True)
class Served:
    """A TCP listener of a declared port."""

    listener: Listener
    place: bytes
    owner: Process | None
    """None if not known."""
    stranger_to: int = 0
    """Id of the target that none of the socket's holders owns; 0 if there is none."""
    target: int = 0
    """Id of the target served there, if it names its owners."""


@dataclass(slots=True)
class ListenerOwners:
    """Stores owners of listeners that the kernel did not see or that changed hands. Connections accepted from
    then on have this owner.

    Examples: a listener older than the agent, a server that forked after listen(), a socket passed on by a
    supervisor."""

    rows: ListenerRows
    by_socket: Map
    reader: ProcReader
    names: Names
    _noted: dict[int, tuple[int, int]] = field(default_factory=dict)
    """Pid and start of each listener's owner, by the listener's cookie."""
    _settled: dict[bytes, tuple[bytes, list[Served]]] = field(default_factory=dict)
    """By place: rows that are as they have to be, and for which listeners."""

    def known(self) -> Known:
        """The time and the places with a row. Read this before the listeners, so that a newer listener is not
        deleted."""
        return Known(boot_ns(), self.rows.places())

    def seen(self, listener: Listener) -> Seen | None:
        return self.rows.seen(place_of(listener))

    def activated(self, listener: Listener, seen: Seen | None) -> bool:
        """True if pid 1 or a system .socket unit called listen() for another process.

        For a socket older than the programs, the caller is not known. A socket that root made counts as
        theirs while only pid 1, or a process of such a unit, holds it."""
        row = seen.row if seen else None
        if row is not None and row.cookie == listener.cookie and row.socket:
            by_kernel = bool(row.flags & abi.Listener.ACTIVATED)
            if by_kernel or all(owner.pid == INIT for owner in listener.owners):
                return by_kernel
        return listener.uid == 0 and all(map(opens_for_others, listener.owners))

    def note(self, served: list[Served], before: Known, rows: Mapping[bytes, Seen]) -> None:
        """Store the owners. `served` has every TCP listener of a declared port. `rows` were read after the
        listeners.

        Places that were known `before` and have no listener any more are deleted."""
        here: dict[bytes, list[Served]] = {}
        for one in served:
            here.setdefault(one.place, []).append(one)
        self._settled = {
            place: settled
            for place, settled in self._settled.items()
            if place in rows and settled == (rows[place].raw, here.get(place))
        }
        noted = {}
        complete = True
        for place, sharing in here.items():
            if place not in self._settled:
                complete &= self._note_place(place, sharing, before.at_ns)
            for one in sharing:
                if one.owner is not None:
                    key = noted[one.listener.cookie] = (one.owner.pid, one.owner.start_boot_ns)
                    if len(sharing) > 1 and self._noted.get(one.listener.cookie) != key:
                        self._note_socket(one.listener, one.owner)
        self._noted = noted
        for place in before.places - here.keys():
            seen = self.rows.seen(place)
            if seen is not None and seen.row.since_ns <= before.at_ns:
                self.rows.forget(place, seen)
        if complete:
            self.rows.all_noted(before.at_ns)

    def _note_place(self, place: bytes, sharing: list[Served], before_ns: int) -> bool:
        """Store the owner of one place. False if a stranger there may have no row.

        A stranger who shares a place with an owner is not recorded as one, because their connections cannot
        be told apart."""
        seen = self.rows.seen(place)
        row = seen.row if seen else None
        if row is not None and row.since_ns > before_ns:
            return True  # a listener that came meanwhile; the next look stores it
        stranger_to = min(one.stranger_to for one in sharing)
        of_row = [one for one in sharing if row is not None and one.listener.cookie == row.cookie]
        known = [one for one in sharing if one.owner is not None]
        chosen = min(of_row or known, key=lambda one: one.stranger_to, default=None)
        if chosen is None:
            return not any(one.target for one in sharing)
        fresh = abi.ListenerOwner(since_ns=before_ns, cookie=chosen.listener.cookie)
        if row is not None and of_row:
            fresh.since_ns, fresh.socket, fresh.flags, fresh.process = (
                row.since_ns,
                row.socket,
                row.flags & ~abi.Listener.BESIDE,
                row.process,
            )
        fresh.flags |= _flags(chosen.listener, shared=len(sharing) > 1)
        fresh.stranger_to = stranger_to
        if stranger_to:
            fresh.flags &= ~abi.Listener.OWNER
        elif any(one.target for one in known):
            fresh.flags |= abi.Listener.OWNER
        owner = chosen.owner
        if owner and not self._is(owner, fresh.process):
            fresh.process = encode_identity(owner, self.names.note, chosen.listener.netns)
        if seen is not None and seen.raw == bytes(fresh):
            self._settled[place] = seen.raw, sharing
            return True
        return self.rows.put(place, seen, fresh) or not stranger_to

    def _is(self, owner: Process, noted: abi.Identity) -> bool:
        """True if `noted` is this process. The start in /proc is rounded to a tick."""
        return owner.pid == noted.pid and self.reader.same_process(owner.start_boot_ns, noted.start_ns)

    def _note_socket(self, listener: Listener, owner: Process) -> None:
        identity = bytes(encode_identity(owner, self.names.note, listener.netns))
        try:
            fd = socket_fd(self.reader, owner.pid, listener.inode)
        except SocketGone:
            return
        except KernelError as error:
            log.warning("%s", error)
            return
        try:
            self.by_socket.put(abi.U32.pack(fd), identity)
        except OSError as error:
            log.debug("port %d: owner not noted: %s", listener.port, error.strerror)
        finally:
            os.close(fd)


def strange(seen: Seen | None) -> bool:
    """True if the kernel at listen(), or the look before, recorded a stranger at this place."""
    return seen is not None and seen.row.stranger_to != 0


def _flags(listener: Listener, *, shared: bool) -> int:
    return (
        (abi.Listener.TRANSPARENT if listener.transparent else 0)
        | (abi.Listener.V6ONLY if listener.v6only else 0)
        | (abi.Listener.SHARES if shared else 0)
    )


def place_of(listener: Listener) -> bytes:
    """Its key in the tables of rows."""
    return bytes(
        abi.OwnerKey(netns=listener.netns, address=abi.RawAddress.of(listener.address), port=listener.port)
    )
