"""Reads processes from /proc (proc(5)). Every reader takes the root directory, so that tests can pass
their own."""

from __future__ import annotations

import os
import pwd
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path

from agent.model import Container, Process
from agent.observe.cgroup import cgroup_id
from agent.observe.exe_link import DELETED, exe_at, link_at
from agent.observe.patience import Patience, Unanswered
from agent.observe.places import Places, belongs_to_root
from agent.observe.proc_files import (
    GONE,
    READ_BYTES,
    Stat,
    image_in,
    namespace_inode,
    parse_args,
    parse_cgroup,
    parse_stat,
    parse_status,
    read,
    read_and_close,
    socket_inode,
)
from agent.policy.terms.cgroups import container_in, unit_of

NS_PER_S = 1_000_000_000
MAX_ARGS_BYTES = 4096
"""Longer command lines are truncated: they may have megabytes."""

_EXCHANGES = 3
_INITIAL_PIDS = 0xEFFFFFFC
"""PROC_PID_INIT_INO, linux/proc_ns.h"""
_NAME_TTL_S = 300.0
_NAMES = 4096
"""The most cached user names: one user with subordinate ids (subuid(5)) has 65,536 uids."""


class UserNames:
    """User names by uid from the host's databases, cached for some minutes.

    A look-up can be slow if users come from a directory server."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._known: dict[int, tuple[float, str]] = {}

    def name_of(self, uid: int) -> str:
        """The user name; "" if the uid has none."""
        until_s, name = self._known.get(uid, (0.0, ""))
        now_s = self._clock()
        if now_s >= until_s:
            try:
                name = pwd.getpwuid(uid).pw_name
            except KeyError:
                name = ""
            if len(self._known) >= _NAMES:
                self._known.clear()
            self._known[uid] = (now_s + _NAME_TTL_S, name)
        return name


class ProcReader:
    """Reads processes below `root`. `cgroup_mount` is the mount point of cgroup2; without it, cgroup ids
    stay 0."""

    def __init__(
        self,
        root: Path = Path("/proc"),
        *,
        cgroup_mount: Path | None = None,
        users: UserNames | None = None,
        ticks_per_s: int | None = None,
        container_of: Callable[[str], Container | None] | None = None,
        unit_of: Callable[[str], str] = unit_of,
        patience: Patience | None = None,
    ) -> None:
        self.root = root
        self.unit_of = unit_of
        """Returns the unit of this host for a cgroup path."""
        self.container_of = container_of or _unnamed
        """Returns the container for a cgroup path."""
        self._places = Places(root)
        self.patience = patience or Patience()
        self._cgroup_mount = cgroup_mount
        self._users = users or UserNames()
        self._tick_ns = NS_PER_S // (ticks_per_s or os.sysconf("SC_CLK_TCK"))

    def pids(self) -> list[int]:
        return sorted(int(name) for name in os.listdir(self.root) if name.isdecimal())

    def stat(self, pid: int) -> Stat | None:
        try:
            with open(self.root / str(pid) / "stat", "rb", buffering=0) as file:
                return parse_stat(file.read(READ_BYTES))
        except GONE:
            return None

    def process(self, pid: int, netns_cookies: Mapping[int, int] | None = None) -> Process | None:
        """Read all facts of a process; None if it has ended.

        `start_boot_ns` is rounded down to a clock tick: compare with `same_process`. The namespace's
        cookie is looked up by inode in `netns_cookies`; it is 0 without an entry there."""
        try:
            # an open directory stays that of this process, so no read returns data of a successor with its
            # pid
            place = os.open(self.root / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except GONE:
            return None
        try:
            return self._read_process(pid, place, netns_cookies or {})
        except GONE:
            return None
        finally:
            os.close(place)

    def _read_process(self, pid: int, place: int, netns_cookies: Mapping[int, int]) -> Process:
        start_ticks = parse_stat(read(place, "stat")).start_ticks
        status = parse_status(read(place, "status"))
        cgroup = self._cgroup(place)
        comm, exe, args = self._program(place, f"arguments of uid {int(status['Uid'][1])} in {cgroup}")
        where = self._places.of(place)
        uid, gid = int(status["Uid"][1]), int(status["Gid"][1])
        return Process(
            pid=pid,
            start_boot_ns=start_ticks * self._tick_ns,
            comm=comm,
            exe=exe,
            args=args,
            uid=uid,
            user=self._users.name_of(uid),
            gid=gid,
            gids=tuple(sorted({gid, *map(int, status["Groups"])})),
            cgroup_id=cgroup_id(self._cgroup_mount, cgroup) if self._cgroup_mount and cgroup else 0,
            cgroup=cgroup,
            unit=self.unit_of(cgroup),
            container=self.container_of(cgroup),
            netns=netns_cookies.get(namespace_inode(link_at(place, "ns/net")), 0) if netns_cookies else 0,
            in_pid_namespace=where.in_pid_namespace,
            exe_elsewhere=where.exe_elsewhere,
            user_owners=where.user_owners,
        )

    def _program(self, place: int, whose: str) -> tuple[str, str, tuple[str, ...]]:
        """Name, executable and arguments, all of one program. If execve(2) replaces the program meanwhile,
        read again. If that keeps happening, return only the executable. The executable's path alone does
        not show an exec, because two execs may restore it. `whose`: the subject to report if the read of
        the arguments blocks."""
        seen = image_in(read(place, "stat")), exe_at(place)
        for _ in range(_EXCHANGES):
            args = self._args(place, whose)
            text = read(place, "stat")
            before, seen = seen, (image_in(text), exe_at(place))
            if seen == before:
                return parse_stat(text).comm, seen[1], args
        return "", seen[1], ()

    def _args(self, place: int, whose: str) -> tuple[str, ...]:
        """Read the arguments, with a timeout. They are in the process's memory, and the process can hold
        its lock: mmap(2) of a file whose file system does not answer holds it for ever. Without an answer
        they are empty."""
        file = os.open("cmdline", os.O_RDONLY | os.O_CLOEXEC, dir_fd=place)
        try:
            return parse_args(self.patience.ask(whose, partial(read_and_close, file, MAX_ARGS_BYTES)))
        except Unanswered as error:
            if not error.is_asked:
                os.close(file)
            return ()

    def _cgroup(self, place: int) -> str:
        """The cgroup path. The kernel marks a cgroup as deleted when it is removed before its last process
        has ended. A directory may also have such a name and still exist."""
        shown = parse_cgroup(read(place, "cgroup"))
        if shown.endswith(DELETED) and self._cgroup_mount and cgroup_id(self._cgroup_mount, shown):
            return shown
        return shown.removesuffix(DELETED)

    def same_process(self, process_ns: int, kernel_ns: int) -> bool:
        """True if a start time from /proc equals one that the kernel side reported. /proc rounds down to a
        clock tick (nsec_to_clock_t); the kernel side gives whole nanoseconds."""
        return process_ns // self._tick_ns == kernel_ns // self._tick_ns

    def exe(self, pid: int) -> str:
        """Path of the executable; "" for a kernel thread and for a process that has ended."""
        try:
            shown = os.readlink(self.root / str(pid) / "exe")
            if not shown.endswith(DELETED):
                return shown
            place = os.open(self.root / str(pid), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except GONE:
            return ""
        try:
            return exe_at(place)
        finally:
            os.close(place)

    def sees_initial_pids(self) -> bool:
        """True if the pids are those of the initial pid namespace, where 1 is the host's service manager."""
        try:
            return os.stat(self.root / "self/ns/pid").st_ino == _INITIAL_PIDS
        except OSError:
            return False

    def netns_inode(self, pid: int) -> int:
        """Inode of the process's network namespace; 0 if the process has ended."""
        try:
            return namespace_inode(os.readlink(f"{self.root}/{pid}/ns/net"))
        except GONE:
            return 0

    @property
    def host_pid_namespace(self) -> int:
        """Inode of the host's pid namespace; 0: not known."""
        return self._places.pid_namespace

    def names_are_trusted(self, pid: int) -> bool:
        """False if the process is in a mount namespace that an unprivileged user made. Any file can have
        any name there, so `exe` proves nothing (bpf/lib/identity.h judges the same way)."""
        try:
            mounts = os.open(self.root / str(pid) / "ns" / "mnt", os.O_RDONLY | os.O_CLOEXEC)
        except GONE:
            return False
        try:
            return belongs_to_root(mounts)
        finally:
            os.close(mounts)

    def fds(self, pid: int) -> Mapping[int, int]:
        """Socket inode by file descriptor; empty for a kernel thread and for a process that has ended."""
        try:
            place = os.open(f"{self.root}/{pid}/fd", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except GONE:
            return {}
        found = {}
        try:
            for name in os.listdir(place):
                # relative to the directory: this takes half the time of a full path, and there can be 100,000
                if inode := socket_inode(link_at(place, name)):
                    found[int(name)] = inode
        except GONE:
            return {}
        finally:
            os.close(place)
        return found

    def holds_all(self, pid: int, fds: Mapping[int, int]) -> bool:
        """True if these descriptors still refer to these sockets. `fds`: descriptor by socket inode; there
        can be 20,000."""
        try:
            place = os.open(f"{self.root}/{pid}/fd", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except GONE:
            return False
        try:
            return all(link_at(place, str(fd)) == f"socket:[{inode}]" for inode, fd in fds.items())
        finally:
            os.close(place)


def _unnamed(cgroup: str) -> Container | None:
    """The container, as far as the path alone identifies it."""
    found = container_in(cgroup)
    return Container(found.id, found.runtime, found.name, known=bool(found.name)) if found else None
