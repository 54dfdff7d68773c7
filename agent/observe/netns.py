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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TypeVar

from agent.errors import KernelError
from agent.model import Namespace
from agent.observe.addresses import global_addresses
from agent.observe.mounts import read_mounts
from agent.observe.proc import ProcReader, namespace_inode

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
        paths = self._scoped() if self._scope is not None else self._paths()
        found = [own] if own.inode in paths else []
        for inode, path in sorted(paths.items(), key=lambda item: item[1]):
            if inode == own.inode:
                continue
            try:
                found.append(_run_in(path, partial(_describe, inode, path)))
            except NamespaceGone:
                continue  # containers come and go
        return tuple(found)

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
    try:
        namespace = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise NamespaceGone(f"{path}: no such network namespace") from error
    except OSError as error:
        raise KernelError(f"{path}: cannot be opened: {error.strerror}; run as root") from error
    try:
        if _is_current(namespace):
            return work()  # needs no privilege

        def entered() -> T:
            _enter(namespace, path)
            return work()

        # never the calling thread: were it not to come back, all that follows would be elsewhere
        with ThreadPoolExecutor(max_workers=1, thread_name_prefix="licet-netns") as thread:
            return thread.submit(entered).result()
    finally:
        os.close(namespace)


def _is_current(namespace: int) -> bool:
    return os.fstat(namespace).st_ino == os.stat("/proc/thread-self/ns/net").st_ino


def _enter(namespace: int, path: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, _CLONE_NEWNET) == 0:
        return
    code = ctypes.get_errno()
    if code == errno.EINVAL:
        raise NamespaceGone(f"{path} is not a network namespace")
    raise KernelError(f"{path}: cannot be entered: {os.strerror(code)}; run as root (CAP_SYS_ADMIN)")
