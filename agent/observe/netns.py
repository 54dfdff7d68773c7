"""The network namespaces of this host, and how to do something inside one.

Seen are the namespaces that some process is in, or that are mounted somewhere the agent can see
(`ip netns`, docker, CNI). Not seen are those held only by an open file or socket, or only by a thread
that left its process's namespace: listing them would mean looking at every descriptor and thread.
"""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache, partial
from typing import TypeVar

from agent.errors import KernelError
from agent.model import Namespace
from agent.observe.addresses import global_addresses
from agent.observe.proc import ProcReader, namespace_inode
from agent.system.mounts import read_mounts

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h; there since Linux 5.14."""
_COOKIE = struct.Struct("=Q")

T = TypeVar("T")


class NamespaceGone(KernelError):
    """The namespace was removed, or its path now leads to another one."""


def own_cookie() -> int:
    """Cookie of the calling thread's network namespace. Raises KernelError before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            raise KernelError(
                "network namespaces have no cookie here (SO_NETNS_COOKIE): it takes Linux 5.14 or newer"
            ) from error
    return int(_COOKIE.unpack(raw)[0])


def open_in(namespace: Namespace, work: Callable[[], T]) -> T:
    """What `work` returns when it runs inside the namespace, in a thread of its own that then ends.

    A socket that `work` opens stays in that namespace wherever it is used later. Raises NamespaceGone;
    KernelError without CAP_SYS_ADMIN; and what `work` raises."""

    def checked() -> T:
        # an inode number is reused as soon as it is free, a cookie never is
        if own_cookie() != namespace.cookie:
            raise NamespaceGone(f"{namespace.path} is another network namespace now")
        return work()

    return _run_in(namespace.path, checked)


def in_each(namespaces: Iterable[Namespace], work: Callable[[Namespace], T]) -> list[T]:
    """What `work` returns inside each, one after the other in one thread that then ends. Those that have gone
    are left out. Raises KernelError without CAP_SYS_ADMIN, and what `work` raises."""

    def visited() -> list[T]:
        return [
            work(namespace)
            for namespace in namespaces
            if _entered(namespace.path) and own_cookie() == namespace.cookie
        ]

    return _in_a_thread(visited)


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
        """All in scope, the agent's own first, the others by path. Those that go meanwhile are left out."""
        own = self.own()
        paths = self._all_paths()
        found = [own] if own.inode in paths else []
        others = [item for item in sorted(paths.items(), key=lambda item: item[1]) if item[0] != own.inode]
        if others:
            found += _in_a_thread(lambda: [_describe(*one) for one in others if _entered(one[1])])
        return tuple(found)

    def with_own(self, others: Iterable[Namespace]) -> tuple[Namespace, ...]:
        """As all(), where the others are known."""
        own = self.own()
        return (own, *others) if self._is_seen(own) else tuple(others)

    def own_is_seen(self) -> bool:
        return self._is_seen(self.own())

    def _is_seen(self, own: Namespace) -> bool:
        return self._scope is None or own.inode in self._scoped()

    def enter(self, pid: int) -> Namespace | None:
        """The one that a process is in; None: it is gone, or out of scope. The calling thread stays in there,
        so it is for one that does nothing else."""
        path = f"{self._reader.root}/{pid}/ns/net"
        inode = self._reader.netns_inode(pid)
        if not inode or (self._scope is not None and inode not in self._scoped()):
            return None
        try:
            with _opened(path) as namespace:
                return _move_and(partial(_describe, inode, path), namespace, path)
        except NamespaceGone:
            return None

    def enter_each(self, is_wanted: Callable[[int], bool]) -> Iterator[Namespace]:
        """As `enter`: those in scope of which `is_wanted` says so, asked with a descriptor of each."""
        for inode, path in self._all_paths().items():
            try:
                with _opened(path) as namespace:
                    if is_wanted(namespace):
                        yield _move_and(partial(_describe, inode, path), namespace, path)
            except NamespaceGone:
                continue

    def _all_paths(self) -> dict[int, str]:
        return self._scoped() if self._scope is not None else self._paths()

    def _paths(self) -> dict[int, str]:
        """A path for each namespace, by inode: a mount if there is one, else that of the oldest pid."""
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
                continue  # not there yet, or no longer
        return found


def _describe(inode: int, path: str) -> Namespace:
    return Namespace(cookie=own_cookie(), inode=inode, path=path, addresses=global_addresses())


def _run_in(path: str, work: Callable[[], T]) -> T:
    with _opened(path) as namespace:
        if _is_current(namespace):
            return work()  # needs no privilege
        return _in_a_thread(lambda: _move_and(work, namespace, path))


def _in_a_thread(work: Callable[[], T]) -> T:
    """Never in the calling thread: were it not to come back, all that follows would be elsewhere."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="licet-netns") as thread:
        return thread.submit(work).result()


def _move_and(work: Callable[[], T], namespace: int, path: str) -> T:
    """The calling thread stays there."""
    _enter(namespace, path)
    return work()


def _entered(path: str) -> bool:
    """The calling thread is there from here on. False: it is gone; containers come and go."""
    try:
        with _opened(path) as namespace:
            if not _is_current(namespace):  # which needs no privilege
                _enter(namespace, path)
    except NamespaceGone:
        return False
    return True


@contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NamespaceGone(f"{path}: no such network namespace") from error
    except OSError as error:
        raise KernelError(f"{path}: cannot be opened: {error.strerror}; run as root") from error
    try:
        yield namespace
    finally:
        os.close(namespace)


def _is_current(namespace: int) -> bool:
    return os.fstat(namespace).st_ino == os.stat("/proc/thread-self/ns/net").st_ino


@cache
def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _enter(namespace: int, path: str) -> None:
    if _libc().setns(namespace, _CLONE_NEWNET) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EINVAL:
        raise NamespaceGone(f"{path} is not a network namespace")
    raise KernelError(f"{path}: cannot be entered: {os.strerror(code)}; run as root (CAP_SYS_ADMIN)")
