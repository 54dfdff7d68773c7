"""Changes rows of listeners in the kernel's tables while programs change them, too."""

from __future__ import annotations

import errno
from dataclasses import dataclass

from agent import abi
from agent.kernel.uapi import NOEXIST
from agent.system.boottime import boot_ns
from agent.system.bpf_map import Map

_OF_USER_SPACE = abi.U32.pack(0)
"""Key in `crowded` for user space. No target has this id."""
_RIGHTFUL = abi.Listener.OWNER | abi.Listener.ACTIVATED | abi.Listener.TRANSPARENT


@dataclass(frozen=True, slots=True)
class Seen:
    """A row as it was read, and its table."""

    table: Map
    raw: bytes

    @property
    def row(self) -> abi.ListenerOwner:
        return abi.ListenerOwner.from_buffer_copy(self.raw)


@dataclass(frozen=True, slots=True)
class ListenerRows:
    """Rows by place. `owners` is for every listener. Rows that a verdict depends on have room in a second
    table."""

    owners: Map
    strangers: Map
    rightful: Map
    """Rows of owners and of transparent listeners."""
    crowded: Map

    def places(self) -> set[bytes]:
        return {place for table in (self.owners, self.strangers, self.rightful) for place, _ in table.items()}

    def now(self) -> dict[bytes, Seen]:
        """All rows by place, read in batches: one by one there could be 20,000 system calls."""
        found: dict[bytes, Seen] = {}
        for table in (self.rightful, self.strangers, self.owners):  # the last counts, as in `seen`
            found.update((place, Seen(table, raw)) for place, raw in table.items())
        return found

    def seen(self, place: bytes) -> Seen | None:
        for table in (self.owners, self.strangers, self.rightful):
            raw = table.get(place)
            if raw:
                return Seen(table, raw)
        return None

    def put(self, place: bytes, seen: Seen | None, fresh: abi.ListenerOwner) -> bool:
        """Write a row; False if there is no room.

        A row that a program made since `seen` stays. A row that a program deleted is not written again."""
        if seen is None:
            return self._put_new(place, fresh) is not None
        if seen.raw == bytes(fresh):
            return True
        if seen.table not in self._tables_for(fresh):
            noted = self._put_new(place, fresh) is not None
            self.forget(place, seen)
            return noted
        stand_in = self._stand_in(place, seen)
        taken = seen.table.take(place)
        where = None
        if taken is not None:
            row = fresh if taken == seen.raw else abi.ListenerOwner.from_buffer_copy(taken)
            where = self._put_new(place, row)
            if where is not None and where is stand_in:
                stand_in.put(place, bytes(row))
        if stand_in is not None and where is not stand_in:
            stand_in.remove(place)
        return taken is None or where is not None

    def _stand_in(self, place: bytes, seen: Seen) -> Map | None:
        """A table with a copy of the row while its entry in `owners` changes. A verdict that depends on it
        finds it there."""
        if seen.table is not self.owners:
            return None
        return next((table for table in self._tables_for(seen.row)[1:] if _add(table, place, seen.raw)), None)

    def forget(self, place: bytes, seen: Seen) -> None:
        """Delete the row, unless a program has written another one since."""
        taken = seen.table.take(place)
        if taken is not None and taken != seen.raw:
            self._put_new(place, abi.ListenerOwner.from_buffer_copy(taken))

    def all_noted(self, at_ns: int) -> None:
        """Record that each stranger who listened at this boot time has a row."""
        self.crowded.put(_OF_USER_SPACE, abi.U64.pack(at_ns))

    def _tables_for(self, row: abi.ListenerOwner) -> tuple[Map, ...]:
        if row.stranger_to:
            return self.owners, self.strangers
        if row.flags & _RIGHTFUL:
            return self.owners, self.rightful
        return (self.owners,)

    def _put_new(self, place: bytes, row: abi.ListenerOwner) -> Map | None:
        """The table that has this row or another program's row for the place; None if there is no room."""
        raw = bytes(row)
        where = next((table for table in self._tables_for(row) if _add(table, place, raw)), None)
        if where is None and row.stranger_to:
            now_ns = boot_ns()
            self.crowded.put(abi.U32.pack(row.stranger_to), abi.U64.pack(now_ns))
        return where


def _add(table: Map, place: bytes, raw: bytes) -> bool:
    """False if the table is full. True also if another writer has put a row there."""
    try:
        table.put(place, raw, NOEXIST)
    except OSError as error:
        if error.errno == errno.EEXIST:
            return True
        if error.errno in (errno.E2BIG, errno.ENOSPC, errno.ENOMEM):
            return False
        raise
    return True
