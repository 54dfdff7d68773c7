"""Where a process runs, judged as in bpf/lib/container.h: on the host, in a pid namespace of root's, below
another root directory, or in a user namespace."""

from __future__ import annotations

import contextlib
import fcntl
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent.observe.proc_files import GONE

INITIAL_USER_NS = 0xEFFFFFFD
# linux/nsfs.h
NS_GET_USERNS, NS_GET_PARENT, NS_GET_OWNER_UID = 0xB701, 0xB702, 0xB704
_MOST_NAMESPACES = 33
"""The deepest nesting of namespaces, including the first (MAX_PID_NS_LEVEL, the same for user namespaces)."""


@dataclass(frozen=True, slots=True)
class Whereabouts:
    in_pid_namespace: bool = False
    exe_elsewhere: bool = False
    user_owners: tuple[int, ...] = ()
    """Uids of the owners of its user namespace and of each outer one."""


class Places:
    """Reads the place of processes below a /proc. Process 1 there stands for the host. If it cannot be
    read (that takes CAP_SYS_PTRACE), the agent's own place stands for the host."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._host = next((each for each in ("1", "self") if _shows_namespaces(root / each)), "")

    @property
    def pid_namespace(self) -> int:
        """Inode of the host's pid namespace; 0: not known."""
        return os.stat(self._root / self._host / "ns/pid").st_ino if self._host else 0

    def of(self, process: int) -> Whereabouts:
        """The place of a process. `process`: an fd of its /proc directory. Raises OSError if the process
        has ended."""
        if not self._host:
            return Whereabouts()
        host = os.open(self._root / self._host, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            return Whereabouts(
                in_pid_namespace=_differs(process, host, "pid") and _is_roots_pid_namespace(process, host),
                exe_elsewhere=_differs(process, host, "mnt") and _root_of(process) != _root_of(host),
                user_owners=tuple(_user_owners(process)) if _differs(process, host, "user") else (),
            )
        finally:
            os.close(host)


def _shows_namespaces(process: Path) -> bool:
    try:
        return bool(os.readlink(process / "ns/pid"))
    except OSError:
        return False


def _differs(process: int, host: int, kind: str) -> bool:
    """True if process and host have different namespaces of this kind. False without permission to read
    them: that alone must not make a process part of a container."""
    with contextlib.suppress(*GONE):
        return os.readlink(f"ns/{kind}", dir_fd=process) != os.readlink(f"ns/{kind}", dir_fd=host)
    return False


def _is_roots_pid_namespace(process: int, host: int) -> bool:
    """True if root made the process's outermost or innermost pid namespace below the host's. The outermost
    decides, because in a container of root's any user may make further ones."""
    end = os.stat("ns/pid", dir_fd=host).st_ino
    levels = []
    for fd in _up(process, "pid", NS_GET_PARENT):
        if os.fstat(fd).st_ino == end:
            break
        levels.append(belongs_to_root(fd))
    return bool(levels) and (levels[0] or levels[-1])


def belongs_to_root(fd: int) -> bool:
    """True if the namespace belongs to the first user namespace."""
    try:
        owner = fcntl.ioctl(fd, NS_GET_USERNS)
    except OSError:
        return False  # EPERM: the owner is outside the namespaces that the agent can see
    try:
        return os.fstat(owner).st_ino == INITIAL_USER_NS
    finally:
        os.close(owner)


def _user_owners(process: int) -> Iterator[int]:
    for fd in _up(process, "user", NS_GET_PARENT):
        if os.fstat(fd).st_ino == INITIAL_USER_NS:
            return
        raw = fcntl.ioctl(fd, NS_GET_OWNER_UID, struct.pack("=I", 0))
        yield struct.unpack("=I", raw)[0]


def _up(process: int, kind: str, step: int) -> Iterator[int]:
    """fds of a namespace and of each outer one, as far as the agent may see them. They are closed at the
    end."""
    with contextlib.ExitStack() as held:
        fd = os.open(f"ns/{kind}", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
        for _ in range(_MOST_NAMESPACES):
            held.callback(os.close, fd)
            yield fd
            try:
                fd = fcntl.ioctl(fd, step)
            except OSError:
                return


def _root_of(process: int) -> tuple[str, str]:
    """Device and directory mounted at the root directory. A later mount hides an earlier one."""
    found = ("", "")
    file = os.open("mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=process)
    with open(file, "rb") as mountinfo:
        # proc(5): id, parent, device, root, mount point, …; users choose the names of mount points. The
        # kernel escapes blanks, tabs, newlines and backslashes in them, but no other byte.
        for line in mountinfo.read().split(b"\n"):
            fields = line.split(b" ")
            if len(fields) > 4 and fields[4] == b"/":
                found = (os.fsdecode(fields[2]), os.fsdecode(fields[3]))
    return found
