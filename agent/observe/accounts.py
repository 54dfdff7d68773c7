"""Members of groups, and the subordinate uids of users, from the host's files (passwd(5), group(5),
subuid(5)). For entries that the files lack, the host's name service is queried."""

from __future__ import annotations

import grp
import os
import pwd
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path

MOST_IDS = (1 << 32) - 1
"""(uid_t)-1 is not a valid uid."""
_ASKED_AGAIN_S = 60.0
"""How long an answer of the name service is cached. A group of a directory server can have thousands of
members."""


def uid_by_service(name: str) -> int | None:
    with suppress(KeyError):
        return pwd.getpwnam(name).pw_uid
    return None


class Accounts:
    """Reads accounts at every look. A file is read again only after it has changed. A malformed line is
    ignored, as by the programs that use these files."""

    def __init__(
        self,
        etc: Path = Path("/etc"),
        uid_of: Callable[[str], int | None] = uid_by_service,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._ask = uid_of
        self._clock = clock
        self._asked: dict[str, int | None] = {}
        self._asked_until_s = 0.0
        self._passwd = _Lines(etc / "passwd")
        self._group = _Lines(etc / "group")
        self._subuid = _Lines(etc / "subuid")

    def members(self, gids: Iterable[int]) -> dict[int, frozenset[int]]:
        """Uids by gid, including users whose primary group it is. Accounts known only to a name service
        count if the group lists them."""
        wanted = frozenset(gids)
        if not wanted:
            return {}
        names: dict[int, set[str]] = {gid: _listed_by_service(gid) for gid in wanted}
        for fields in self._group.read():
            if len(fields) >= 4 and _number(fields[2]) in wanted:
                names[int(fields[2])].update(filter(None, fields[3].split(",")))
        users = list(self._users())
        known = {name: uid for name, uid, _ in users}
        found = {}
        for gid, listed in names.items():
            uids = {self._uid_of(name, known) for name in listed}
            uids.update(uid for _, uid, primary in users if primary == gid)
            found[gid] = frozenset(uid for uid in uids if uid is not None)
        return found

    def subordinates(self, uids: Iterable[int]) -> dict[int, tuple[range, ...]]:
        """Subordinate uids by uid; users without any are left out. A line names its user by uid, or by any
        name of that uid (newuidmap(1))."""
        wanted = frozenset(uids)
        lines = self._subuid.read() if wanted else []
        known = {name: uid for name, uid, _ in self._users()} if lines else {}
        found: dict[int, set[range]] = {}
        for owner, *numbers in lines:
            ids = _range(numbers)
            uid = _number(owner) if owner.isdecimal() else self._uid_of(owner, known)
            if ids and uid is not None and uid in wanted:
                found.setdefault(uid, set()).add(ids)
        return {uid: tuple(sorted(ranges, key=_ends)) for uid, ranges in found.items()}

    def _uid_of(self, name: str, known: dict[str, int]) -> int | None:
        if name in known:
            return known[name]
        if self._clock() >= self._asked_until_s:
            self._asked.clear()
            self._asked_until_s = self._clock() + _ASKED_AGAIN_S
        if name not in self._asked:
            self._asked[name] = self._ask(name)
        return self._asked[name]

    def _users(self) -> Iterator[tuple[str, int, int]]:
        """(name, uid, primary gid)"""
        for fields in self._passwd.read():
            if len(fields) >= 4:
                uid, gid = _number(fields[2]), _number(fields[3])
                if uid is not None and gid is not None:
                    yield fields[0], uid, gid


class _Lines:
    """The fields of each line of a file."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen: tuple[int, ...] | None = None
        self._lines: list[list[str]] = []

    def read(self) -> list[list[str]]:
        """The lines, each split into fields; empty if the file does not exist."""
        try:
            now = os.stat(self._path)
            seen = (now.st_dev, now.st_ino, now.st_size, now.st_mtime_ns)
            if seen != self._seen:
                # users write their own comment field (chfn(1)), so only a newline ends a line
                text = self._path.read_bytes().decode("utf-8", "surrogateescape")
                self._lines = [line.split(":") for line in text.split("\n") if line]
                self._seen = seen
        except OSError:
            self._lines, self._seen = [], None
        return self._lines


def _listed_by_service(gid: int) -> set[str]:
    with suppress(KeyError):
        return set(grp.getgrgid(gid).gr_mem)
    return set()


def _range(numbers: list[str]) -> range:
    first, count = (_number(each) for each in numbers) if len(numbers) == 2 else (None, None)
    if first is None or count is None:
        return range(0)
    return range(first, min(first + count, MOST_IDS))


def _number(text: str) -> int | None:
    """The text as an id; None if it is not a valid id."""
    return number if text.isdecimal() and (number := int(text)) < MOST_IDS else None


def _ends(ids: range) -> tuple[int, int]:
    return ids.start, ids.stop
