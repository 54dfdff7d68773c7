"""Runs functions inside network namespaces. Standard library only."""

from __future__ import annotations

import ctypes
import errno
import os
import socket
import struct
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cache
from typing import TypeVar

from agent.errors import KernelError
from agent.model import Namespace

_CLONE_NEWNET = 0x40000000
_SO_NETNS_COOKIE = 71
"""include/uapi/asm-generic/socket.h, since Linux 5.14."""
_COOKIE = struct.Struct("=Q")

T = TypeVar("T")


class NamespaceGone(KernelError):
    """The namespace was removed, or its path now refers to another namespace."""


def own_cookie() -> int:
    """The cookie of the calling thread's network namespace. Raises KernelError before Linux 5.14."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            raw = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, _COOKIE.size)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:
                raise
            raise KernelError(
                "this kernel has no cookies of network namespaces (SO_NETNS_COOKIE); use Linux 5.14 or newer"
            ) from error
    return int(_COOKIE.unpack(raw)[0])


def run_in_namespace(namespace: Namespace, work: Callable[[], T]) -> T:
    """Run `work` inside the namespace, in a new thread that then ends; its result.

    A socket that `work` opens stays in that namespace, even if another thread uses it later. Raises
    NamespaceGone, KernelError without CAP_SYS_ADMIN, and any exception of `work`."""

    def checked() -> T:
        # compare cookies: inode numbers are reused as soon as they are free, cookies never
        if own_cookie() != namespace.cookie:
            raise NamespaceGone(f"{namespace.path} is another network namespace now")
        return work()

    return _run_in(namespace.path, checked)


def in_each(namespaces: Iterable[Namespace], work: Callable[[Namespace], T]) -> list[T]:
    """Run `work` inside each namespace in turn, in one thread that then ends; the results. Removed namespaces
    are skipped. Raises KernelError without CAP_SYS_ADMIN, and any exception of `work`."""

    def visited() -> list[T]:
        return [
            work(namespace)
            for namespace in namespaces
            if entered(namespace.path) and own_cookie() == namespace.cookie
        ]

    return in_a_thread(visited)


def _run_in(path: str, work: Callable[[], T]) -> T:
    with opened(path) as namespace:
        if _is_current(namespace):
            return work()  # this path needs no privilege
        return in_a_thread(lambda: move_and(work, namespace, path))


def in_a_thread(work: Callable[[], T]) -> T:
    """Run `work` in a new thread. If the calling thread entered a namespace and failed to return, all later
    calls would run in the wrong namespace."""
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="licet-netns") as thread:
        return thread.submit(work).result()


def move_and(work: Callable[[], T], namespace: int, path: str) -> T:
    """Move the calling thread into the namespace, then run `work`. The thread stays in the namespace."""
    _enter(namespace, path)
    return work()


def entered(path: str) -> bool:
    """Move the calling thread into the namespace, for good. False: the namespace is gone (containers come and
    go)."""
    try:
        with opened(path) as namespace:
            if not _is_current(namespace):  # the check avoids a call that needs privileges
                _enter(namespace, path)
    except NamespaceGone:
        return False
    return True


@contextmanager
def opened(path: str) -> Iterator[int]:
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
