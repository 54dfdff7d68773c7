"""Finds the network namespaces of this host.

A namespace is found if a process is in it, or if it is mounted where the agent can see it (`ip netns`,
docker, CNI). A namespace is not found if only an open file or socket holds it, or only a thread that left
its process's namespace. Finding those would mean reading every descriptor and thread.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial

from agent.model import Namespace
from agent.observe.addresses import global_addresses
from agent.observe.proc import ProcReader
from agent.observe.proc_files import namespace_inode
from agent.system.mounts import read_mounts
from agent.system.netns import NamespaceGone, entered, in_a_thread, move_and, opened, own_cookie


class Namespaces:
    """Finds network namespaces. `scope` limits them to those that the given paths lead to."""

    def __init__(self, reader: ProcReader, scope: Sequence[str] | None = None) -> None:
        self._reader = reader
        self._scope = scope

    def own(self) -> Namespace:
        """The namespace the agent runs in, whatever the scope."""
        path = f"{self._reader.root}/self/ns/net"
        return Namespace(
            cookie=own_cookie(), inode=os.stat(path).st_ino, path=path, addresses=global_addresses()
        )

    def all(self) -> tuple[Namespace, ...]:
        """All namespaces in scope: the agent's own first, the others by path. Those that disappear
        meanwhile are left out."""
        own = self.own()
        paths = self._all_paths()
        found = [own] if own.inode in paths else []
        others = [item for item in sorted(paths.items(), key=lambda item: item[1]) if item[0] != own.inode]
        if others:
            found += in_a_thread(lambda: [_describe(*one) for one in others if entered(one[1])])
        return tuple(found)

    def with_own(self, others: Iterable[Namespace]) -> tuple[Namespace, ...]:
        """Like all(), if the caller knows the others."""
        own = self.own()
        return (own, *others) if self._is_seen(own) else tuple(others)

    def own_is_seen(self) -> bool:
        return self._is_seen(self.own())

    def _is_seen(self, own: Namespace) -> bool:
        return self._scope is None or own.inode in self._scoped()

    def enter(self, pid: int) -> Namespace | None:
        """The namespace of a process; None if it is gone or out of scope. The calling thread stays in that
        namespace, so call it only in a thread for this purpose."""
        path = f"{self._reader.root}/{pid}/ns/net"
        inode = self._reader.netns_inode(pid)
        if not inode or (self._scope is not None and inode not in self._scoped()):
            return None
        try:
            with opened(path) as namespace:
                return move_and(partial(_describe, inode, path), namespace, path)
        except NamespaceGone:
            return None

    def enter_each(self, is_wanted: Callable[[int], bool]) -> Iterator[Namespace]:
        """Enter each namespace in scope that `is_wanted` accepts, as `enter` does. `is_wanted` gets a
        descriptor of the namespace."""
        for inode, path in self._all_paths().items():
            try:
                with opened(path) as namespace:
                    if is_wanted(namespace):
                        yield move_and(partial(_describe, inode, path), namespace, path)
            except NamespaceGone:
                continue

    def _all_paths(self) -> dict[int, str]:
        return self._scoped() if self._scope is not None else self._paths()

    def _paths(self) -> dict[int, str]:
        """A path of each namespace, by inode: a mount point if there is one, else the path of the lowest
        pid."""
        found: dict[int, str] = {}
        for pid in self._reader.pids():
            if inode := self._reader.netns_inode(pid):
                found.setdefault(inode, f"{self._reader.root}/{pid}/ns/net")
        for mount in read_mounts(self._reader.root / "self" / "mountinfo"):
            if mount.kind == "nsfs" and (inode := namespace_inode(mount.root)):
                found[inode] = mount.point
        return found

    def _scoped(self) -> dict[int, str]:
        found: dict[int, str] = {}
        for path in self._scope or ():
            try:
                found.setdefault(os.stat(path).st_ino, path)
            except (FileNotFoundError, ProcessLookupError):
                continue  # does not exist yet, or no longer
        return found


def _describe(inode: int, path: str) -> Namespace:
    return Namespace(cookie=own_cookie(), inode=inode, path=path, addresses=global_addresses())
